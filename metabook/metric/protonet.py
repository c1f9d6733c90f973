# SPDX-License-Identifier: MIT
"""Prototypical networks: embed, average each class, take the nearest mean.

    c_k = mean of f(x) over the support examples x of class k
    p(k | x) = softmax over k of -|f(x) - c_k|^2

Snell, Swersky & Zemel, *Prototypical Networks for Few-shot Learning*, 2017,
https://arxiv.org/abs/1703.05175. Taught in sections 3.3, 4.2 and 5.2 of the
book.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabook.learner.embedding import EmbeddingLearner
from metabook.learner.labels import label_columns
from metabook.learner.weights import number_like
from metabook.metric.distances import Distance, distance_by_name

__all__ = ["ProtoNet", "compute_prototypes"]


def compute_prototypes(support_x: Tensor, support_y: Tensor) -> Tensor:
    """The mean of each class: the document's listing of section 5.2, mended.

    Parameters
    ----------
    support_x : Tensor, (S, D) or (T, S, D)
        Embedded support examples.
    support_y : Tensor of integers, (S,) or (T, S)
        Any labels; classes may have different numbers of examples.

    Returns
    -------
    Tensor, (classes, D) or (T, classes, D)
        Row j is the mean of the j-th smallest label.

    Raises
    ------
    ValueError
        If shapes do not agree or labels are not integers.

    References
    ----------
    Snell, Swersky & Zemel, 2017, https://arxiv.org/abs/1703.05175

    Examples
    --------
    >>> support_x = torch.tensor([[0.0], [2.0], [5.0]])
    >>> compute_prototypes(support_x, torch.tensor([9, 9, 3]))
    tensor([[5.],
            [1.]])
    """
    if support_y.dim() == 1:
        return compute_prototypes(support_x[None], support_y[None])[0]
    if support_x.dim() != 3 or support_x.shape[:2] != support_y.shape:
        raise ValueError(
            f"support_x is {tuple(support_x.shape)} and support_y is"
            f" {tuple(support_y.shape)}; expected (S, D) with (S,), or (T, S,"
            " D) with (T, S)"
        )
    classes, columns = label_columns(support_y)
    member = F.one_hot(columns, classes.shape[1])  # (T, S, way)
    member = member.to(support_x.dtype)
    # sum_s member[s, k] x[s] / count[k], for every task in one matrix product
    return member.mT @ support_x / member.sum(dim=1)[:, :, None]


class ProtoNet(EmbeddingLearner):
    """Prototypical network: a class is its mean embedded support example.

    Parameters
    ----------
    embedding : nn.Module
        Maps examples (B, ...) to features (B, D).
    distance : str or callable
        ``"squared_euclidean"``, ``"euclidean"``, ``"manhattan"``, ``"cosine"``,
        or a function: ``distance(queries (T, Q, D), prototypes (T, C, D))``
        returns (T, Q, C).
    temperature : float
        Scores are ``-distance / temperature``: the higher, the closer to
        uniform are the probabilities.
    learn_temperature : bool
        Learn it with the embedding, from this value.
    embedding_dtype : torch.dtype, optional
        For the embedding in training, such as ``torch.bfloat16``: see
        `EmbeddingLearner`.

    References
    ----------
    Snell, Swersky & Zemel, 2017, https://arxiv.org/abs/1703.05175

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.ProtoNet(mb.Conv4())
    >>> x, y = torch.rand(2, 5, 1, 28, 28), torch.arange(5).repeat(2, 1)
    >>> learner(x, y, torch.rand(2, 7, 1, 28, 28)).shape
    torch.Size([2, 7, 5])
    """

    log_temperature: Tensor

    def __init__(
        self,
        embedding: nn.Module,
        *,
        distance: str | Distance = "squared_euclidean",
        temperature: float = 1.0,
        learn_temperature: bool = False,
        embedding_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(embedding, embedding_dtype=embedding_dtype)
        if temperature <= 0:
            raise ValueError(
                f"temperature is {temperature}; it must be positive"
            )
        self.distance = distance_by_name(distance)
        self.learn_temperature = learn_temperature
        # what is learned, so that the temperature stays positive
        log_temperature = number_like(embedding, temperature).log()
        if learn_temperature:
            self.log_temperature = nn.Parameter(log_temperature)
        else:
            self.register_buffer("log_temperature", log_temperature)

    @property
    def temperature(self) -> float:
        """What distances are divided by."""
        return float(self.log_temperature.detach().exp())

    def extra_repr(self) -> str:
        """The settings, for printing."""
        name = getattr(self.distance, "__name__", self.distance)
        return ", ".join(
            filter(None, [f"distance={name}", super().extra_repr()])
        )

    def settings(self) -> dict[str, Any]:
        """What tells this learner from another one; a temperature that is
        learned belongs to the weights.
        """
        temperature = math.exp(float(self.log_temperature.detach()))
        fixed = {} if self.learn_temperature else {"temperature": temperature}
        return super().settings() | fixed

    def score(
        self, support_z: Tensor, support_y: Tensor, query_z: Tensor
    ) -> Tensor:
        """Negative distances to the prototypes over the temperature: the
        logits of the softmax, (T, Q, way).
        """
        prototypes = compute_prototypes(support_z, support_y)
        return -self.distance(query_z, prototypes) / self.log_temperature.exp()

    def summary(
        self, support_z: Tensor, support_y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The prototypes: a class of one example is its own mean."""
        prototypes = compute_prototypes(support_z, support_y)
        return prototypes, label_columns(support_y)[0]
