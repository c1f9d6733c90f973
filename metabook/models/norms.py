# SPDX-License-Identifier: MIT
"""Ways to normalise a layer's outputs, by name, and the one that few-shot
learning needs for itself.

Taught in section 5.1 of the book.
"""

import math

import torch
from torch import Tensor, nn

__all__ = ["SupportNorm", "norm_by_name", "normalize"]


def norm_by_name(norm: str, width: int) -> nn.Module:
    """The normalisation layer by its name."""
    if norm == "batch":
        return nn.BatchNorm2d(width)
    if norm == "batch_stats":
        return nn.BatchNorm2d(width, track_running_stats=False)
    if norm == "support":
        return SupportNorm(width)
    if norm == "group":
        return nn.GroupNorm(math.gcd(8, width), width)
    if norm == "none":
        return nn.Identity()
    raise ValueError(
        f"norm is {norm!r}; choose 'batch', 'batch_stats', 'support', 'group'"
        " or 'none'"
    )


class SupportNorm(nn.Module):
    """Batch norm for tasks: the support set is normalised by its own
    statistics, and so are the queries.

        y = weight * (x - mean) / sqrt(var + eps) + bias

    with the mean and var of the support set, per channel. MAML's family keeps a
    task's ``mean`` and ``var`` with its fast weights, and hands them in as
    buffers. A module that is called without them uses the batch at hand.

    Parameters
    ----------
    width : int
        Channels, the second size of the input.
    eps : float

    References
    ----------
    Bronskill, Gordon, Requeima, Nowozin & Turner, *TaskNorm*, 2020,
    https://arxiv.org/abs/2003.03284, who call it MetaBN.

    Examples
    --------
    >>> layer, x = SupportNorm(2), torch.tensor([[0.0, 1.0], [4.0, 1.0]])
    >>> layer(x)[:, 0].detach().round(decimals=3)
    tensor([-1.,  1.])
    """

    mean: Tensor | None
    var: Tensor | None

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.width, self.eps = width, eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", None)
        self.register_buffer("var", None)

    def extra_repr(self) -> str:
        """The settings, for printing."""
        return f"{self.width}, eps={self.eps}"

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, width, ...)."""
        var, mean = (
            self.statistics(x)
            if self.mean is None or self.var is None
            else (self.var, self.mean)
        )
        return normalize(x, mean, var, self.weight, self.bias, self.eps)

    @staticmethod
    def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
        """Variance and mean of every channel of (B, channels, ...)."""
        var, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
        return var, mean


def normalize(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """weight * (x - mean) / sqrt(var + eps) + bias.

    x is (B, channels, ...), the rest is (channels,).
    """
    scale = (var + eps).rsqrt()
    if weight is not None:
        scale = weight * scale
    shape = (1, -1, *[1] * (x.dim() - 2))
    x = (x - mean.view(shape)) * scale.view(shape)
    return x if bias is None else x + bias.view(shape)
