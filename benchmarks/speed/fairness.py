# SPDX-License-Identifier: MIT
"""The same weights for everyone, and the test that gradients are the same."""

from collections.abc import Callable
from typing import Any

import torch
from timing import Step
from torch import Tensor, nn


def checked(
    error: float, tolerance: float, make: Callable[[], Step]
) -> tuple[dict[str, Any], Step | None]:
    """What is reported of a gradient with this relative error, and the step
    that ``make`` makes, if the gradient is right.
    """
    found: dict[str, Any] = {"gradient_error": float(f"{error:.2g}")}
    if error <= tolerance:
        return found, make()
    return found | {"error": "its gradient is another one: not timed"}, None


def by_layer(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by number of layer and name in it: the same keys for
    networks that are written differently.
    """
    layers = [
        m
        for m in model.modules()
        if any(True for _ in m.parameters(recurse=False))
    ]
    return {
        f"{i} {name}": p
        for i, layer in enumerate(layers)
        for name, p in layer.named_parameters(recurse=False)
    }


def with_weights_of(ours: nn.Module, plain: nn.Module) -> nn.Module:
    """The peers' network with metabook's weights, which has no bias where batch
    norm would take it away again.
    """
    weights = by_layer(ours)
    for key, p in by_layer(plain).items():
        p.data = (
            weights[key].data.clone().contiguous()
            if key in weights
            else torch.zeros_like(p)
        )
    return plain


def gradient_of(model: nn.Module) -> dict[str, Tensor]:
    """What lies in ``.grad``, in float64, by the keys of `by_layer`."""
    return {
        key: p.grad.double()
        for key, p in by_layer(model).items()
        if p.grad is not None
    }


def relative_error(
    gradient: dict[str, Tensor], expected: dict[str, Tensor]
) -> float:
    """Norm of the difference over norm of the expected; what only one of them
    has is compared with zero.
    """
    zero = torch.zeros(())
    keys = gradient.keys() | expected.keys()
    off = sum(
        float((gradient.get(k, zero) - expected.get(k, zero)).square().sum())
        for k in keys
    )
    return (
        off / sum(float(g.square().sum()) for g in expected.values())
    ) ** 0.5
