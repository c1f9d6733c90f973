# SPDX-License-Identifier: MIT
"""Matching networks: a weighted vote of the support examples, by similarity.

    p(k | x) = sum of a(x, x_s) over the support examples x_s of class k
    a(x, x_s) = softmax over s of scale * cos(f(x), f(x_s))

Vinyals, Blundell, Lillicrap, Kavukcuoglu & Wierstra, *Matching Networks for One
Shot Learning*, 2016, https://arxiv.org/abs/1606.04080, without their full
context embeddings. A prototypical network averages the vectors of a class
before it compares; this one compares before it averages. With one example a
class both compare with that. Taught in section 3.3 of the book.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabook.learner.embedding import EmbeddingLearner
from metabook.learner.labels import label_columns
from metabook.learner.weights import number_like

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
        *,
        scale: float = 10.0,
        embedding_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(embedding, embedding_dtype=embedding_dtype)
        if scale <= 0:
            raise ValueError(f"scale is {scale}; it must be positive")
        self.log_scale = nn.Parameter(number_like(embedding, scale).log())

    @property
    def scale(self) -> float:
        """Of the cosines, as learned so far."""
        return float(self.log_scale.detach().exp())

    def score(
        self, support_z: Tensor, support_y: Tensor, query_z: Tensor
    ) -> Tensor:
        """Logarithms of the classes' probabilities, (T, Q, way)."""
        query_z = F.normalize(query_z, dim=-1)
        support_z = F.normalize(support_z, dim=-1)
        cosines = query_z @ support_z.mT  # (T, Q, S)
        votes = F.log_softmax(self.log_scale.exp() * cosines, dim=-1)
        classes, columns = label_columns(support_y)
        way = torch.arange(classes.shape[1], device=columns.device)
        foreign = (columns[:, :, None] != way)[:, None]  # (T, 1, S, way)
        # the logarithm of a sum of votes, without leaving the logarithms: no
        # log of zero
        of_class = votes[..., None].masked_fill(foreign, -torch.inf)
        return of_class.logsumexp(dim=2)
