# SPDX-License-Identifier: MIT
"""What an inner loop refuses, since it would compute something else."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _WeightNorm

__all__ = ["frozen_norms", "refuse_modes", "refuse_unfit_layers"]


def refuse_modes(steps: int) -> None:
    """Refuse what the inner loop cannot do."""
    if steps < 0:
        raise ValueError(f"steps is {steps}; it cannot be negative")
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "the inner loop takes gradients, which torch.inference_mode()"
            " forbids: use torch.no_grad(), under which no graph is kept either"
        )


def refuse_unfit_layers(model: nn.Module, first_order: bool) -> None:
    """Refuse layers through which tasks would see each other, or whose second
    derivative is wrong.
    """
    frozen = frozen_norms(model)
    for name, module in model.named_modules():
        if isinstance(module, _WeightNorm) and not first_order:
            raise ValueError(
                f"{name} is torch's weight norm, whose second derivative is"
                " wrong, without a word (seen in torch 2.13): write g * v /"
                " v.norm() out in the model, or use first_order=True"
            )
        if _has_running_statistics(module) and name not in frozen:
            raise ValueError(
                f"{name or 'the model'} is a {type(module).__name__} with"
                " running statistics, through which tasks would see each"
                " other. Normalise by the batch alone"
                " (torch.func.replace_all_batch_norm_modules_(model); Conv4:"
                " norm='batch_stats'; the learner is then transductive), by the"
                " support set (Conv4: norm='support'), or in groups (Conv4:"
                " norm='group'). The statistics of a pretrained network can"
                " stay as they are: layer.eval().requires_grad_(False)"
            )


def frozen_norms(model: nn.Module) -> frozenset[str]:
    """The names of normalisation layers whose statistics cannot change: in
    evaluation mode, with no weight that is learned.
    """
    return frozenset(
        name
        for name, module in model.named_modules()
        if _has_running_statistics(module)
        and not module.training
        and not any(p.requires_grad for p in module.parameters())
    )


def _has_running_statistics(module: nn.Module) -> bool:
    return isinstance(module, _NormBase) and module.running_mean is not None
