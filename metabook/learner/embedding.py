# SPDX-License-Identifier: MIT
"""What all metric-based learners share: embed every example, then score the
queries against the support set.

Only the scoring looks at an episode. In evaluation mode a vector depends on its
own example alone, so that one pass over a test set serves every episode drawn
from it: see `metabook.evaluate_embedded`. Taught in section 3.3 of the book.
"""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabook.learner.labels import check_batch, label_columns
from metabook.learner.losses import LossFn
from metabook.learner.precision import is_cast, uncast
from metabook.learner.protocol import Learner, State
from metabook.learner.weights import first_weight
from metabook.models.outputs import one_tensor

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
        of an episode then errs by about a tenth of its length. Autocast around
        a call reaches the network alone, too (`metabook.learner.precision`).

    Examples
    --------
    >>> from metabook.metric.protonet import compute_prototypes
    >>> class NearestMean(EmbeddingLearner):
    ...     def score(self, support_z, support_y, query_z):
    ...         means = compute_prototypes(support_z, support_y)
    ...         return -torch.cdist(query_z, means)
    >>> x, y = torch.tensor([[[0.0], [4.0]]]), torch.tensor([[7, 8]])
    >>> NearestMean(nn.Identity()).predict(x, y, torch.tensor([[[1.0]]]))
    tensor([[7]])
    """

    def __init__(
        self,
        embedding: nn.Module,
        *,
        loss_fn: LossFn = F.cross_entropy,
        embedding_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(loss_fn)
        self.embedding, self.embedding_dtype = embedding, embedding_dtype

    def extra_repr(self) -> str:
        """The settings, for printing."""
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
        s = support_x.shape[1]
        z = self.embed(torch.cat([support_x, query_x], dim=1))  # (T, S + Q, D)
        with uncast(z.device):
            return self.score(z[:, :s], support_y, z[:, s:])

    def remember(self, support_x: Tensor, support_y: Tensor) -> State:
        """The encoded support set, `summary`; but the support set itself where
        its vectors depend on the queries beside it.
        """
        if self.training or self.transductive:
            return super().remember(support_x, support_y)
        z = self.embed(support_x)
        with uncast(z.device):
            z, y = self.summary(z, support_y)
        return {"support_z": z, "support_y": y}

    def answer(self, state: State, query_x: Tensor) -> Tensor:
        """The scores of queries, from what `remember` kept."""
        if "support_x" in state:
            return super().answer(state, query_x)
        z, y = state["support_z"], state["support_y"]
        query_z = self.embed(query_x)
        with uncast(z.device):
            return self.score(z, y, query_z)

    def summary(
        self, support_z: Tensor, support_y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The fewest vectors that score like these, with their labels: here
        all of them.
        """
        return support_z, support_y

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
        z = self.represent(x)
        if z.dim() != 3:
            raise ValueError(
                f"the embedding returned {tuple(z.shape[2:])} for one example;"
                " examples are compared as vectors: end the network with"
                " nn.Flatten()"
            )
        return z

    def represent(self, x: Tensor) -> Tensor:
        """What the network makes of examples (T, B, ...): (T, B, ...)."""
        if self.training and self.embedding_dtype is not None:
            with torch.autocast(x.device.type, self.embedding_dtype):
                return torch.stack([*map(self._embedded, x)])
        if self.transductive or self.training:
            return torch.stack([*map(self._embedded, x)])
        examples = x.flatten(0, 1)
        size = CPU_BATCH if x.device.type == "cpu" else len(examples)
        z = torch.cat([*map(self._embedded, torch.split(examples, size))])
        return z.view(*x.shape[:2], *z.shape[1:])

    def _embedded(self, x: Tensor) -> Tensor:
        z = one_tensor(self.embedding(x))
        if not is_cast(z):
            return z
        # scored in the type of the weights, and kept in it
        weight = first_weight(self)
        return z.to(x.dtype if weight is None else weight.dtype)
