# SPDX-License-Identifier: MIT
"""Matching networks: a weighted vote of the support examples, by similarity.

    p(k | x) = sum of a(x, x_s) over the support examples x_s of class k,  a =
    softmax over s of scale * cos(f(x), f(x_s))

Vinyals, Blundell, Lillicrap, Kavukcuoglu & Wierstra, *Matching Networks for One
Shot Learning*, 2016, https://arxiv.org/abs/1606.04080, without their full
context embeddings. A prototypical network averages the vectors of a class
before it compares; this one compares before it averages. With one example a
class both compare with that. Taught in section 3.3 of the book.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabook.learner.embedding import EmbeddingLearner
from metabook.learner.labels import label_columns

__all__ = ["MatchingNet"]


class MatchingNet(EmbeddingLearner):
    """Classes voted for by the support examples, each with its attention.

    Parameters
    ----------
    embedding : nn.Module
        Maps examples (B, ...) to features (B, D).
    scale : float
        Of the cosines; learned from here. With a scale of one, as in the paper,
        no vote of five is above 65 %.
    embedding_dtype : torch.dtype, optional
        For the embedding in training, such as ``torch.bfloat16``: see
        `EmbeddingLearner`.

    References
    ----------
    Vinyals, Blundell, Lillicrap, Kavukcuoglu & Wierstra, 2016,
    https://arxiv.org/abs/1606.04080

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.MatchingNet(mb.Conv4())
    >>> x, y = torch.rand(2, 5, 1, 28, 28), torch.arange(5).repeat(2, 1)
    >>> bool((learner(x, y, x).exp().sum(dim=-1) - 1).abs().max() < 1e-5)
    True
    """

    def __init__(
        self,
        embedding: nn.Module,
        scale: float = 10.0,
        embedding_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(embedding, embedding_dtype=embedding_dtype)
        self._scale = scale
        self.log_scale = nn.Parameter(torch.tensor(scale).log())

    def settings(self) -> dict[str, Any]:
        """What tells this learner from another one; of the scale, where it
        began.
        """
        return super().settings() | {"scale": self._scale}

    def score(
        self, support_z: Tensor, support_y: Tensor, query_z: Tensor
    ) -> Tensor:
        """Logarithms of the classes' probabilities, (T, Q, way)."""
        cosines = (
            F.normalize(query_z, dim=-1) @ F.normalize(support_z, dim=-1).mT
        )  # (T, Q, S)
        votes = F.log_softmax(self.log_scale.exp() * cosines, dim=-1)
        classes, columns = label_columns(support_y)
        foreign = columns[:, :, None] != torch.arange(
            classes.shape[1], device=columns.device
        )  # (T, S, way)
        # the logarithm of a sum of votes, without leaving the logarithms: no
        # log of zero
        return (
            votes[..., None]
            .masked_fill(foreign[:, None], -torch.inf)
            .logsumexp(dim=2)
        )
