# SPDX-License-Identifier: MIT
"""The networks of the papers: a small multilayer perceptron, four blocks of convolution, and ways to normalise.

Taught in sections 3.1 and 5.1 of the book.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["MLP", "Conv4", "SupportNorm", "normalise"]


class MLP(nn.Sequential):
    """A multilayer perceptron with ReLU; whatever comes in is flattened first.

    Parameters
    ----------
    inputs, outputs : int
        Width of the first and of the last layer.
    hidden : sequence of int
        Widths between them; 40 and 40 is the network of the MAML paper's sine waves.

    Examples
    --------
    >>> sum(p.numel() for p in MLP(1, 1).parameters())
    1761
    """

    def __init__(self, inputs: int, outputs: int, hidden: Sequence[int] = (40, 40)) -> None:
        widths = [inputs, *hidden, outputs]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU()]
        super().__init__(nn.Flatten(), *layers[:-1])


class Conv4(nn.Module):
    """Four blocks of 3 x 3 convolution, normalisation, ReLU and down-sampling: the network of the few-shot papers.

    Parameters
    ----------
    out : int, optional
        Width of a linear layer on top: the number of classes, for MAML. Without it the network returns the
        flattened features, 64 for a 28 x 28 image with pooling.
    width : int
        Channels of every block.
    norm : {"batch", "batch_stats", "support", "group", "none"}
        ``"batch"``: batch norm with running statistics, so that at test each image is embedded on its own
        (inductive). ``"batch_stats"``: batch norm that always uses the batch at hand, as MAML's authors do;
        the prediction for one query then depends on the other queries (transductive). ``"support"``: the
        statistics of the task's support set, for its queries too (`SupportNorm`; inductive). ``"group"``: group
        norm, each image by its own statistics (inductive).
    strided : bool
        Down-sample by stride, and average over space before the linear layer, as MAML's authors do on Omniglot;
        otherwise by 2 x 2 max-pooling, as in prototypical networks.
    channels, size : int
        Channels and side of the input images.

    References
    ----------
    Vinyals et al., 2016, https://arxiv.org/abs/1606.04080; the strided variant: https://github.com/cbfinn/maml

    Examples
    --------
    >>> Conv4()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 64])
    >>> Conv4(out=5, norm="batch_stats", strided=True)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        out: int | None = None,
        width: int = 64,
        norm: str = "batch",
        strided: bool = False,
        channels: int = 1,
        size: int = 28,
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        side = size
        for c_in in (channels, width, width, width):
            blocks.append(nn.Conv2d(c_in, width, 3, stride=2 if strided else 1, padding=1, bias=norm == "none"))
            blocks.append(_norm(norm, width))
            # max-pooling and ReLU commute; pooling first leaves ReLU a quarter of the work
            blocks += [nn.ReLU()] if strided else [nn.MaxPool2d(2), nn.ReLU()]
            size = (size + 1) // 2 if strided else size // 2
        if size == 0:
            raise ValueError("the images are too small: four halvings leave nothing; give at least 16 pixels a side")
        self.features = nn.Sequential(*blocks)
        self.pool_space = strided and out is not None
        self.expects = (channels, side, side)
        self.head = nn.Identity() if out is None else nn.Linear(width if self.pool_space else width * size**2, out)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the rest follows; faster on CPUs, same values

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to features or scores (B, width)."""
        if x.shape[1:] != self.expects:
            raise ValueError(
                f"the images are {tuple(x.shape[1:])}; this network was built for {self.expects}, channels first: "
                "see its arguments channels and size"
            )
        x = self.features(x)
        x = x.mean(dim=(2, 3)) if self.pool_space else x.flatten(1)
        scores: Tensor = self.head(x)
        return scores


def _norm(norm: str, width: int) -> nn.Module:
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
    raise ValueError(f"norm is {norm!r}; choose 'batch', 'batch_stats', 'support', 'group' or 'none'")


class SupportNorm(nn.Module):
    """Batch norm for tasks: the support set is normalised by its own statistics, and so are the queries.

        y = weight * (x - mean) / sqrt(var + eps) + bias,  mean and var of the support set, per channel

    MAML's family keeps a task's ``mean`` and ``var`` with its fast weights, and hands them in as buffers. A module
    that is called without them uses the batch at hand.

    Parameters
    ----------
    width : int
        Channels, the second size of the input.
    eps : float

    References
    ----------
    Bronskill, Gordon, Requeima, Nowozin & Turner, *TaskNorm*, 2020, https://arxiv.org/abs/2003.03284, who call
    it MetaBN.

    Examples
    --------
    >>> layer, x = SupportNorm(2), torch.tensor([[0.0, 1.0], [4.0, 1.0]])
    >>> layer(x)[:, 0].tolist() == [-layer(x)[1, 0].item(), layer(x)[1, 0].item()]
    True
    """

    mean: Tensor | None
    var: Tensor | None

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.width, self.eps = width, eps
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", None)
        self.register_buffer("var", None)

    def extra_repr(self) -> str:
        """The settings, for printing."""
        return f"{self.width}, eps={self.eps}"

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, width, ...)."""
        var, mean = self.statistics(x) if self.mean is None or self.var is None else (self.var, self.mean)
        return normalise(x, mean, var, self.weight, self.bias, self.eps)

    @staticmethod
    def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
        """Variance and mean of every channel of (B, channels, ...)."""
        var, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
        return var, mean


def normalise(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """weight * (x - mean) / sqrt(var + eps) + bias, for x of shape (B, channels, ...) and the rest (channels,)."""
    scale = (var + eps).rsqrt() if weight is None else weight * (var + eps).rsqrt()
    shape = (1, -1, *[1] * (x.dim() - 2))
    x = (x - mean.view(shape)) * scale.view(shape)
    return x if bias is None else x + bias.view(shape)
