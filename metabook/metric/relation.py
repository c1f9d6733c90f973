# SPDX-License-Identifier: MIT
"""Relation networks: learn the distance too.

    r(x, k) = g([f(x), sum of f(x_s) over the support examples of class k])

between 0 and 1.

Sung, Yang, Zhang, Xiang, Torr & Hospedales, *Learning to Compare*, 2018,
https://arxiv.org/abs/1711.06025. Taught in section 3.3 of the book.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabook.learner.embedding import EmbeddingLearner
from metabook.learner.labels import label_columns
from metabook.learner.losses import LossFn
from metabook.learner.weights import number_like

__all__ = ["RelationNet", "one_hot_mse"]


def one_hot_mse(scores: Tensor, columns: Tensor) -> Tensor:
    """The paper's loss: the squared error between relation scores (N, way),
    made 0 to 1 by a sigmoid, and 0 or 1.
    """
    return F.mse_loss(
        scores.sigmoid(), F.one_hot(columns, scores.shape[1]).to(scores.dtype)
    )


class RelationNet(EmbeddingLearner):
    """A second network judges whether a query and a class belong together.

    Parameters
    ----------
    embedding : nn.Module
        Maps examples (B, ...) to features (B, D).
    features : int
        D; 64 for a `Conv4` with pooling.
    width : int
        Of the hidden layer of the relation network, a perceptron over the two
        vectors. (The paper's is convolutional, over feature maps.)
    loss_fn : callable
        `one_hot_mse`, the paper's; or cross-entropy over the classes.
    embedding_dtype : torch.dtype, optional
        For the embedding in training, such as ``torch.bfloat16``: see
        `EmbeddingLearner`.

    References
    ----------
    Sung, Yang, Zhang, Xiang, Torr & Hospedales, 2018,
    https://arxiv.org/abs/1711.06025

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.RelationNet(mb.Conv4())
    >>> x, y = torch.rand(2, 5, 1, 28, 28), torch.arange(5).repeat(2, 1)
    >>> learner(x, y, torch.rand(2, 7, 1, 28, 28)).shape
    torch.Size([2, 7, 5])
    """

    def __init__(
        self,
        embedding: nn.Module,
        *,
        features: int = 64,
        width: int = 64,
        loss_fn: LossFn = one_hot_mse,
        embedding_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            embedding, loss_fn=loss_fn, embedding_dtype=embedding_dtype
        )
        self.features, self.width = features, width
        self.relation = nn.Sequential(
            nn.Linear(2 * features, width), nn.ReLU(), nn.Linear(width, 1)
        )
        self.relation.to(number_like(embedding, 0.0))  # its device and type

    def score(
        self, support_z: Tensor, support_y: Tensor, query_z: Tensor
    ) -> Tensor:
        """How much each query belongs to each class, before the sigmoid:
        (T, Q, way).
        """
        sums, _ = self.summary(support_z, support_y)  # (T, way, D)
        t, q, way = len(sums), query_z.shape[1], sums.shape[1]
        pairs = torch.cat(
            [
                query_z[:, :, None].expand(-1, -1, way, -1),
                sums[:, None].expand(-1, q, -1, -1),
            ],
            dim=-1,
        )
        scores: Tensor = self.relation(pairs).view(t, q, way)
        return scores

    def summary(
        self, support_z: Tensor, support_y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The sum of each class's vectors: a class of one example is its own
        sum.
        """
        classes, columns = label_columns(support_y)
        member = F.one_hot(columns).to(support_z.dtype)  # (T, S, way)
        return member.mT @ support_z, classes
