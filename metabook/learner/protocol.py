# SPDX-License-Identifier: MIT
"""The protocol that every few-shot learner obeys: a function from a support set
to a predictor.

``learner(support_x, support_y, query_x)`` learns from the support set and
predicts the queries, for T tasks at once. What a method learns *across* tasks
are its parameters, and `Learner.backward` says how. Taught in section 2.1 of
the book.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metabook.data.settings import module_settings
from metabook.learner.labels import label_columns, query_targets
from metabook.models.norms import SupportNorm
from metabook.tasks.episode import Episode

__all__ = ["Learner", "LossFn"]

LossFn = Callable[[Tensor, Tensor], Tensor]

# attributes that say how something is computed, and not what
EXECUTION = frozenset({"execution", "programs", "threads", "vectorized"})


class Learner(nn.Module, ABC):
    """Base of the few-shot learners.

    A subclass writes `forward`; `loss`, `backward` and `predict` follow from
    it.

    Parameters
    ----------
    loss_fn : callable
        ``loss_fn(predictions, targets)`` with all examples along the first
        dimension. Integer labels arrive as columns of the predictions, 0 to
        ``way - 1``; floating targets arrive as they are.

    Attributes
    ----------
    transductive : bool
        Whether the prediction for a query may depend on the other queries: true
        of a network that normalises with the statistics of the batch. Printed
        with every score.

    Examples
    --------
    >>> import torch
    >>> from metabook.learner.labels import label_columns
    >>> class FirstClass(
    ...     Learner
    ... ):  # answers every query with the smallest label of the support set
    ...     def forward(self, support_x, support_y, query_x):
    ...         way = label_columns(support_y)[0].shape[1]
    ...         return F.one_hot(
    ...             torch.zeros(query_x.shape[:2], dtype=torch.long), way
    ...         ).float()
    >>> FirstClass().predict(
    ...     torch.rand(1, 4, 3),
    ...     torch.tensor([[8, 8, 5, 5]]),
    ...     torch.rand(1, 2, 3),
    ... )
    tensor([[5, 5]])
    """

    def __init__(self, loss_fn: LossFn = F.cross_entropy) -> None:
        super().__init__()
        self.loss_fn = loss_fn

    @property
    def transductive(self) -> bool:
        """Whether the prediction for a query may depend on the other queries."""
        uses_batch = [
            isinstance(m, _BatchNorm) and m.running_mean is None
            for m in self.modules()
        ]
        return any(uses_batch) or any(
            isinstance(m, SupportNorm) for m in self.modules()
        )

    @abstractmethod
    def forward(
        self, support_x: Tensor, support_y: Tensor, query_x: Tensor
    ) -> Tensor:
        """Learn each task from its support set and predict its queries.

        Parameters
        ----------
        support_x : Tensor, (T, S, ...)
        support_y : Tensor, (T, S)
            Any integers, or floating targets.
        query_x : Tensor, (T, Q, ...)

        Returns
        -------
        Tensor, (T, Q, way) or the shape of the targets
            For classes, column j scores the j-th smallest label of that task's
            support set.
        """

    def loss(self, episode: Episode) -> Tensor:
        """The loss on the query sets after learning from the support sets,
        averaged over the tasks; a scalar.

        Raises
        ------
        ValueError
            If a query has a label that its task's support set lacks.
        """
        targets = query_targets(episode.support_y, episode.query_y)
        predictions = self(
            episode.support_x, episode.support_y, episode.query_x
        )
        return self.compare(predictions.flatten(0, 1), targets.flatten(0, 1))

    def compare(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """``loss_fn`` of predictions and targets, (N, way) and (N,) or (N, ...)
        both, after a look at both.

        Raises
        ------
        ValueError
            If floating targets meet cross-entropy, the shapes would broadcast,
            or the loss is no scalar.
        """
        if targets.is_floating_point():
            if self.loss_fn is F.cross_entropy or isinstance(
                self.loss_fn, nn.CrossEntropyLoss
            ):
                raise ValueError(
                    "the targets are floating. Class labels are integers"
                    " (labels.long()); regression needs its own loss, as"
                    " loss_fn=torch.nn.functional.mse_loss"
                )
            if predictions.shape != targets.shape:
                raise ValueError(
                    f"the predictions are {tuple(predictions.shape)} but the"
                    f" targets are {tuple(targets.shape)}; give both the same"
                    " shape, for example with y[..., None]"
                )
        elif self.loss_fn is F.mse_loss:
            raise ValueError(
                "mean squared error of class labels: classes need"
                " cross-entropy, or a loss_fn that makes them one-hot"
            )
        loss = self.loss_fn(predictions, targets)
        if loss.dim():
            raise ValueError(
                f"loss_fn returned shape {tuple(loss.shape)}; it must be a"
                " scalar: reduction='mean'"
            )
        return loss

    def settings(self) -> dict[str, Any]:
        """What tells this learner from another one, apart from its weights:
        loss, model, and all public attributes. A run in a folder is known by
        it.

        A subclass overrides it where an argument of its constructor is not kept
        as an attribute, or where an attribute does not change the result.

        Examples
        --------
        >>> import metabook as mb
        >>> settings = mb.FineTuning(nn.Flatten(), steps=20).settings()
        >>> settings["steps"], settings["loss_fn"]
        (20, 'torch.nn.functional.cross_entropy')
        """
        return module_settings(self, EXECUTION, name="the learner")

    def check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Warn of an optimiser that does not do what the method's authors mean.
        `metabook.train` calls this once; here, any will do.
        """
        return

    def backward(self, episode: Episode) -> float:
        """Add the outer gradient to the parameters' ``.grad`` and return the
        loss. `metabook.train` calls this.

        Raises
        ------
        ValueError
            If the loss does not depend on any parameter.
        """
        loss = self.loss(episode)
        if not loss.requires_grad:
            raise ValueError(
                f"{type(self).__name__} learns nothing across tasks: its loss"
                " has no gradient. Use it without training: evaluate(learner,"
                " tasks)"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def backward_each(self, episodes: Iterable[Episode]) -> float:
        """Like `backward`, for tasks that fit into no common episode: each
        comes as its own, with T = 1.

        What is added to ``.grad`` is the gradient of the mean over the tasks,
        as if they had come together.
        """
        before = [p.grad for p in self.parameters()]
        for p in self.parameters():
            p.grad = None
        losses = [self.backward(episode) for episode in episodes]
        for p, grad in zip(self.parameters(), before, strict=True):
            if p.grad is not None:
                p.grad = (
                    p.grad / len(losses)
                    if grad is None
                    else grad + p.grad / len(losses)
                )
            else:
                p.grad = grad
        return sum(losses) / len(losses)

    def predict(
        self, support_x: Tensor, support_y: Tensor, query_x: Tensor
    ) -> Tensor:
        """Like calling the learner, but returns labels, (T, Q), in place of
        scores; floating targets stay predictions.
        """
        scores: Tensor = self(support_x, support_y, query_x)
        if support_y.is_floating_point():
            return scores
        classes, _ = label_columns(support_y)
        return classes.gather(1, scores.argmax(dim=-1))
