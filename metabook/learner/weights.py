# SPDX-License-Identifier: MIT
"""Where a network is, and in which precision it computes."""

import torch
from torch import Tensor, nn

__all__ = ["first_weight", "number_like"]


def first_weight(module: nn.Module) -> Tensor | None:
    """The first floating weight, which stands for the device and the type of
    all; ``None`` if there is none.

    Examples
    --------
    >>> first_weight(nn.Linear(2, 3).double()).dtype
    torch.float64
    """
    weights = (p for p in module.parameters() if p.is_floating_point())
    return next(weights, None)


def number_like(module: nn.Module, value: float) -> Tensor:
    """A scalar on the device and in the type of a network's weights.

    Examples
    --------
    >>> number_like(nn.Linear(2, 3).double(), 0.5)
    tensor(0.5000, dtype=torch.float64)
    """
    weight = first_weight(module)
    return torch.tensor(value) if weight is None else weight.new_tensor(value)
