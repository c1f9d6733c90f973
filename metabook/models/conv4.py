# SPDX-License-Identifier: MIT
"""Four blocks of convolution, the network of the few-shot papers.

Taught in section 5.1 of the book.
"""

import torch
from torch import Tensor, nn

from metabook.models.norms import norm_by_name

__all__ = ["Conv4"]


class Conv4(nn.Module):
    """Four blocks of 3 x 3 convolution, normalisation, ReLU and down-sampling:
    the network of the few-shot papers.

    Parameters
    ----------
    out : int, optional
        Width of a linear layer on top: the number of classes, for MAML. Without
        it the network returns the flattened features, 64 for a 28 x 28 image
        with pooling.
    width : int
        Channels of every block.
    norm : {"batch", "batch_stats", "support", "group", "none"}
        ``"batch"``: batch norm with running statistics, so that at test each
        image is embedded on its own (inductive). ``"batch_stats"``: batch norm
        that always uses the batch at hand, as MAML's authors do; the prediction
        for one query then depends on the other queries (transductive).
        ``"support"``: the statistics of the task's support set, for its queries
        too (`SupportNorm`; inductive). ``"group"``: group norm, each image by
        its own statistics (inductive).
    strided : bool
        Down-sample by stride, and average over space before the linear layer,
        as MAML's authors do on Omniglot; otherwise by 2 x 2 max-pooling, as in
        prototypical networks.
    channels, size : int
        Channels and side of the input images.

    References
    ----------
    Vinyals et al., 2016, https://arxiv.org/abs/1606.04080; the strided variant:
    https://github.com/cbfinn/maml

    Examples
    --------
    >>> images = torch.zeros(2, 1, 28, 28)
    >>> Conv4()(images).shape
    torch.Size([2, 64])
    >>> Conv4(out=5, norm="batch_stats", strided=True)(images).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        out: int | None = None,
        *,
        width: int = 64,
        norm: str = "batch",
        strided: bool = False,
        channels: int = 1,
        size: int = 28,
    ) -> None:
        super().__init__()
        self.out, self.width, self.norm, self.strided = (
            out,
            width,
            norm,
            strided,
        )
        self.channels, self.size = channels, size
        blocks: list[nn.Module] = []
        side, stride = size, 2 if strided else 1
        for c_in in (channels, width, width, width):
            bias = norm == "none"
            blocks += [
                nn.Conv2d(c_in, width, 3, stride, padding=1, bias=bias),
                norm_by_name(norm, width),
            ]
            # max-pooling and ReLU commute; pooling first leaves ReLU a quarter
            # of the work
            blocks += [nn.ReLU()] if strided else [nn.MaxPool2d(2), nn.ReLU()]
            size = (size + 1) // 2 if strided else size // 2
        if size == 0:
            raise ValueError(
                "the images are too small: four halvings leave nothing; give at"
                " least 16 pixels a side"
            )
        self.features = nn.Sequential(*blocks)
        self.pool_space = strided and out is not None
        self.expects = (channels, side, side)
        self.head = (
            nn.Identity()
            if out is None
            else nn.Linear(width if self.pool_space else width * size**2, out)
        )
        # faster on CPUs, same values; the activations follow the weights
        layout = torch.channels_last
        self.to(memory_format=layout)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to features or scores (B, width)."""
        if x.shape[1:] != self.expects:
            raise ValueError(
                f"the images are {tuple(x.shape[1:])}; this network was built"
                f" for {self.expects}, channels first: see its arguments"
                " channels and size"
            )
        x = self.features(x)
        x = x.mean(dim=(2, 3)) if self.pool_space else x.flatten(1)
        scores: Tensor = self.head(x)
        return scores
