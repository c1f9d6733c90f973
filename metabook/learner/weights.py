# SPDX-License-Identifier: MIT
"""Where a network is, and in which precision it computes."""

import torch
from torch import Tensor, nn

__all__ = ["first_weight", "like_weights", "number_like"]


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


def like_weights(x: Tensor, module: nn.Module) -> Tensor:
    """A tensor where a network is; float32, in which data come, in the type of
    its weights. Other types stay: integers are labels or tokens, and data of
    another precision than the network's are refused by the learner.

    Examples
    --------
    >>> net = nn.Linear(2, 3).double()
    >>> like_weights(torch.ones(2), net).dtype
    torch.float64
    >>> like_weights(torch.ones(2, dtype=torch.int64), net).dtype
    torch.int64
    """
    weight = first_weight(module)
    if weight is None:
        return x
    dtype = weight.dtype if x.dtype == torch.float32 else x.dtype
    return x.to(weight.device, dtype)


def number_like(module: nn.Module, value: float) -> Tensor:
    """A scalar on the device and in the type of a network's weights.

    Examples
    --------
    >>> number_like(nn.Linear(2, 3).double(), 0.5)
    tensor(0.5000, dtype=torch.float64)
    """
    weight = first_weight(module)
    return torch.tensor(value) if weight is None else weight.new_tensor(value)
