# SPDX-License-Identifier: MIT
"""What an inner loop refuses, since it would compute something else."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from metabook.learner.probes import hooks_of

__all__ = [
    "frozen_norms",
    "hooks_of_layers",
    "hooks_of_weights",
    "refuse_hooks_of_weights",
    "refuse_modes",
    "refuse_unfit_layers",
]


def refuse_modes(steps: int) -> None:
    """Refuse what the inner loop cannot do."""
    if steps < 0:
        raise ValueError(f"steps is {steps}; it cannot be negative")
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "the inner loop takes gradients, which torch.inference_mode()"
            " forbids: use torch.no_grad(), under which no graph is kept either"
        )


def hooks_of_layers(model: nn.Module) -> list[str]:
    """The names of the layers with hooks that a pass calls."""
    return [
        name or "the model"
        for name, module in model.named_modules()
        if any(hooks_of(module))
    ]


def hooks_of_weights(model: nn.Module) -> list[str]:
    """The names of the parameters whose gradient goes through hooks."""
    return [
        name
        for name, p in model.named_parameters()
        if p._backward_hooks or p._post_accumulate_grad_hooks
    ]


def refuse_hooks_of_weights(model: nn.Module) -> None:
    """Refuse hooks where autograd does not compute the outer gradient, so that
    they would not be called.
    """
    if names := hooks_of_weights(model):
        raise ValueError(
            f"{names[0]} has a hook, which would not be called: the outer"
            " gradient does not come to it from autograd. Remove the hook, and"
            " change .grad after backward"
        )


def refuse_unfit_layers(model: nn.Module) -> None:
    """Refuse layers through which tasks would see each other."""
    frozen = frozen_norms(model)
    for name, module in model.named_modules():
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
