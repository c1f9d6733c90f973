# SPDX-License-Identifier: MIT
"""What an inner loop refuses, since it would compute something else."""

import torch
from torch import nn
from torch.nn.utils.parametrizations import _WeightNorm

__all__ = ["refuse_modes", "refuse_unfit_layers"]


def refuse_modes(device: torch.device, steps: int, second_order: bool) -> None:
    """Refuse what the inner loop cannot do, or cannot do right."""
    if steps < 0:
        raise ValueError(f"steps is {steps}; it cannot be negative")
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "the inner loop takes gradients, which torch.inference_mode()"
            " forbids: use torch.no_grad(), under which no graph is kept either"
        )
    if torch.is_autocast_enabled(device.type) and second_order and steps:
        raise RuntimeError(
            "under autocast the second derivatives of the inner loop would be"
            " computed in half precision, which ruins them: leave autocast, or"
            " use first_order=True"
        )


def refuse_unfit_layers(model: nn.Module, first_order: bool) -> None:
    """Refuse layers that share something between tasks, or whose second
    derivative is wrong.
    """
    for name, module in model.named_modules():
        if isinstance(module, _WeightNorm) and not first_order:
            raise ValueError(
                f"{name} is torch's weight norm, whose second derivative is"
                " wrong, without a word (seen in torch 2.13): write g * v /"
                " v.norm() out in the model, or use first_order=True"
            )
        if getattr(module, "running_mean", None) is not None:
            raise ValueError(
                f"{name or 'the model'} is a {type(module).__name__} with"
                " running statistics, through which tasks would see each"
                " other. Build it with track_running_stats=False (Conv4:"
                " norm='batch_stats', and the learner is transductive), with"
                " SupportNorm (Conv4: norm='support'), or with group norm"
                " (Conv4: norm='group')"
            )
