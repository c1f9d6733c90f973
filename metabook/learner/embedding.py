# SPDX-License-Identifier: MIT
"""What all metric-based learners share: embed every example, then score the
queries against the support set.

Only the scoring looks at an episode. In evaluation mode a vector depends on its
own example alone, so that one pass over a test set serves every episode drawn
from it: see `metabook.evaluate_embedded`.
"""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabook.learner.labels import check_batch, label_columns
from metabook.learner.protocol import Learner, LossFn

__all__ = ["EmbeddingLearner"]

# in evaluation on a CPU: twice as fast as many hundreds, whose activations
# leave the cache
CPU_BATCH = 64


class EmbeddingLearner(Learner):
    """Base of the learners that compare embedded queries with an embedded
    support set.

    A subclass writes `score`.

    Parameters
    ----------
    embedding : nn.Module
        Maps examples (B, ...) to features (B, D).
    loss_fn : callable
    embedding_dtype : torch.dtype, optional
        In training, run the embedding under autocast to this type, such as
        ``torch.bfloat16``, where the processor is faster at it (on a CPU: with
        AVX512-BF16 or AMX; others may be slower). Weights, gradients and the
        scoring keep their own type, and so does all of evaluation. The gradient
        of an episode then errs by about a tenth of its length.
    """

    def __init__(
        self,
        embedding: nn.Module,
        loss_fn: LossFn = F.cross_entropy,
        embedding_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(loss_fn)
        self.embedding, self.embedding_dtype = embedding, embedding_dtype

    def extra_repr(self) -> str:
        """The settings that make another learner."""
        return (
            ""
            if self.embedding_dtype is None
            else f"embedding_dtype={self.embedding_dtype}"
        )

    def forward(
        self, support_x: Tensor, support_y: Tensor, query_x: Tensor
    ) -> Tensor:
        """Embed support and queries in one pass, and score: (T, Q, way)."""
        check_batch(self, support_x, support_y, query_x)
        label_columns(support_y)  # labels are checked before the network runs
        z = self.embed(
            torch.cat([support_x, query_x], dim=1)
        )  # one pass: (T, S + Q, D)
        return self.score(
            z[:, : support_x.shape[1]], support_y, z[:, support_x.shape[1] :]
        )

    @abstractmethod
    def score(
        self, support_z: Tensor, support_y: Tensor, query_z: Tensor
    ) -> Tensor:
        """Score embedded queries against an embedded support set.

        Parameters
        ----------
        support_z : Tensor, (T, S, D)
        support_y : Tensor of integers, (T, S)
        query_z : Tensor, (T, Q, D)

        Returns
        -------
        Tensor, (T, Q, way)
            Column j scores the j-th smallest label of the task's support set.
        """

    def embed(self, x: Tensor) -> Tensor:
        """Embed examples (T, B, ...) as vectors (T, B, D); where batch
        statistics matter, each task on its own.
        """
        z = self.features(x)
        if z.dim() != 3:
            raise ValueError(
                f"the embedding returned {tuple(z.shape[2:])} for one example;"
                " examples are compared as vectors: end the network with"
                " nn.Flatten()"
            )
        return z

    def features(self, x: Tensor) -> Tensor:
        """What the network makes of examples (T, B, ...), of any shape (T, B,
        ...).
        """
        if self.training and self.embedding_dtype is not None:
            with torch.autocast(x.device.type, self.embedding_dtype):
                z = torch.stack([self.embedding(task) for task in x])
            return z.to(torch.promote_types(z.dtype, torch.float32))
        if self.transductive or self.training:
            return torch.stack([self.embedding(task) for task in x])
        examples = x.flatten(0, 1)
        size = CPU_BATCH if x.device.type == "cpu" else len(examples)
        z = torch.cat(
            [self.embedding(part) for part in torch.split(examples, size)]
        )
        return z.view(*x.shape[:2], *z.shape[1:])
