# SPDX-License-Identifier: MIT
"""The protocol that every few-shot learner obeys: a function from a support set to a predictor.

``learner(support_x, support_y, query_x)`` learns from the support set and predicts the queries, for T tasks at
once. What a method learns *across* tasks are its parameters, and `Learner.backward` says how. Taught in
section 2.1 of the book.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metabook.models import SupportNorm
from metabook.tasks.episode import Episode

__all__ = ["Learner", "LossFn", "check_batch", "label_columns", "query_targets"]

LossFn = Callable[[Tensor, Tensor], Tensor]


class Learner(nn.Module, ABC):
    """Base of the few-shot learners.

    A subclass writes `forward`; `loss`, `backward` and `predict` follow from it.

    Parameters
    ----------
    loss_fn : callable
        ``loss_fn(predictions, targets)`` with all examples along the first dimension. Integer labels arrive
        as columns of the predictions, 0 to ``way - 1``; floating targets arrive as they are.

    Attributes
    ----------
    transductive : bool
        Whether the prediction for a query may depend on the other queries: true of a network that normalises
        with the statistics of the batch. Printed with every score.

    Examples
    --------
    >>> class FirstClass(Learner):  # answers every query with the smallest label of the support set
    ...     def forward(self, support_x, support_y, query_x):
    ...         way = label_columns(support_y)[0].shape[1]
    ...         return F.one_hot(torch.zeros(query_x.shape[:2], dtype=torch.long), way).float()
    >>> FirstClass().predict(torch.rand(1, 4, 3), torch.tensor([[8, 8, 5, 5]]), torch.rand(1, 2, 3))
    tensor([[5, 5]])
    """

    def __init__(self, loss_fn: LossFn = F.cross_entropy) -> None:
        super().__init__()
        self.loss_fn = loss_fn

    @property
    def transductive(self) -> bool:
        """Whether the prediction for a query may depend on the other queries."""
        uses_batch = [isinstance(m, _BatchNorm) and m.running_mean is None for m in self.modules()]
        return any(uses_batch) or any(isinstance(m, SupportNorm) for m in self.modules())

    @abstractmethod
    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
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
            For classes, column j scores the j-th smallest label of that task's support set.
        """

    def loss(self, episode: Episode) -> Tensor:
        """The loss on the query sets after learning from the support sets, averaged over the tasks; a scalar.

        Raises
        ------
        ValueError
            If a query has a label that its task's support set lacks.
        """
        targets = query_targets(episode.support_y, episode.query_y)
        predictions = self(episode.support_x, episode.support_y, episode.query_x)
        return self.compare(predictions.flatten(0, 1), targets.flatten(0, 1))

    def compare(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """``loss_fn`` of predictions and targets, (N, way) and (N,) or (N, ...) both, after a look at both.

        Raises
        ------
        ValueError
            If floating targets meet cross-entropy, the shapes would broadcast, or the loss is no scalar.
        """
        if targets.is_floating_point():
            if self.loss_fn is F.cross_entropy or isinstance(self.loss_fn, nn.CrossEntropyLoss):
                raise ValueError(
                    "the targets are floating. Class labels are integers (labels.long()); regression needs its own "
                    "loss, as loss_fn=torch.nn.functional.mse_loss"
                )
            if predictions.shape != targets.shape:
                raise ValueError(
                    f"the predictions are {tuple(predictions.shape)} but the targets are {tuple(targets.shape)}; "
                    "give both the same shape, for example with y[..., None]"
                )
        elif self.loss_fn is F.mse_loss:
            raise ValueError(
                "mean squared error of class labels: classes need cross-entropy, or a loss_fn that makes them one-hot"
            )
        loss = self.loss_fn(predictions, targets)
        if loss.dim():
            raise ValueError(f"loss_fn returned shape {tuple(loss.shape)}; it must be a scalar: reduction='mean'")
        return loss

    def backward(self, episode: Episode) -> float:
        """Add the outer gradient to the parameters' ``.grad`` and return the loss. `metabook.train` calls this."""
        loss = self.loss(episode)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def backward_each(self, episodes: Iterable[Episode]) -> float:
        """Like `backward`, for tasks that fit into no common episode: each comes as its own, with T = 1.

        What is added to ``.grad`` is the gradient of the mean over the tasks, as if they had come together.
        """
        before = [p.grad for p in self.parameters()]
        for p in self.parameters():
            p.grad = None
        losses = [self.backward(episode) for episode in episodes]
        for p, grad in zip(self.parameters(), before, strict=True):
            if p.grad is not None:
                p.grad = p.grad / len(losses) if grad is None else grad + p.grad / len(losses)
            else:
                p.grad = grad
        return sum(losses) / len(losses)

    def predict(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Like calling the learner, but returns labels, (T, Q), in place of scores; floating targets stay predictions."""
        scores: Tensor = self(support_x, support_y, query_x)
        if support_y.is_floating_point():
            return scores
        classes, _ = label_columns(support_y)
        return classes.gather(1, scores.argmax(dim=-1))


def label_columns(support_y: Tensor) -> tuple[Tensor, Tensor]:
    """Number the labels of each task from 0, smallest first.

    Parameters
    ----------
    support_y : Tensor of integers, (T, S)

    Returns
    -------
    classes : Tensor, (T, way)
        The labels of each task, ascending.
    columns : Tensor of int64, (T, S)
        Position of each label among them.

    Raises
    ------
    ValueError
        If the labels are not integers of shape (T, S), or tasks have different numbers of classes.

    Examples
    --------
    >>> label_columns(torch.tensor([[7, 3, 9, 3]]))
    (tensor([[3, 7, 9]]), tensor([[1, 0, 2, 0]]))
    """
    if not isinstance(support_y, Tensor):
        raise ValueError(
            f"support_y is a {type(support_y).__name__}; learners take tensors: torch.as_tensor(support_y)"
        )
    if support_y.dim() != 2 or 0 in support_y.shape or support_y.is_floating_point() or support_y.dtype == torch.bool:
        raise ValueError(
            f"support_y is {support_y.dtype} of shape {tuple(support_y.shape)}; class labels are integers of shape "
            "(tasks, examples)"
        )
    values, inverse = torch.unique(support_y, return_inverse=True)
    present = torch.zeros(len(support_y), len(values), dtype=torch.bool, device=support_y.device)
    present.scatter_(1, inverse, True)
    ways = present.sum(dim=1)
    if not bool((ways == ways[0]).all()):
        raise ValueError(
            f"the tasks have {sorted(set(ways.tolist()))} classes; one batch holds tasks of one way: "
            "pass tasks of other ways as episodes of their own"
        )
    classes = values.expand(len(support_y), -1)[present].view(len(support_y), -1)
    return classes, columns_of(support_y, classes)


def columns_of(labels: Tensor, classes: Tensor) -> Tensor:
    """The column of each label (T, Q) among the ascending classes (T, way) of its task; a foreign label raises."""
    labels, classes = labels.contiguous(), classes.contiguous()
    columns = torch.searchsorted(classes, labels).clamp_(max=classes.shape[1] - 1)
    foreign = classes.gather(1, columns) != labels
    if bool(foreign.any()):
        t, q = foreign.nonzero()[0].tolist()
        raise ValueError(
            f"query {q} of task {t} has label {labels[t, q].item()}, which is not in its support set "
            f"{classes[t].tolist()}: no learner can predict a class that it was not shown"
        )
    return columns


def query_targets(support_y: Tensor, query_y: Tensor) -> Tensor:
    """What the predictions for the queries are compared with: columns for labels, floating targets as they are."""
    if support_y.is_floating_point():
        return query_y
    return columns_of(query_y, label_columns(support_y)[0])


def check_batch(learner: nn.Module, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> None:
    """Refuse tensors that are not the parts of one batch of tasks, with a message that says which."""
    for name, value in (("support_x", support_x), ("support_y", support_y), ("query_x", query_x)):
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} is a {type(value).__name__}; learners take tensors: torch.as_tensor({name})")
    if support_y.dim() < 2 or support_x.shape[:2] != support_y.shape[:2]:
        raise ValueError(
            f"support_x is {tuple(support_x.shape)} and support_y is {tuple(support_y.shape)}; they must begin with "
            "the same (tasks, examples). For a single task add the first one: support_x[None], support_y[None]"
        )
    if len(query_x) != len(support_x) or query_x.shape[2:] != support_x.shape[2:]:
        raise ValueError(
            f"support_x is {tuple(support_x.shape)} but query_x is {tuple(query_x.shape)}; only the second size, "
            "the number of examples, may differ"
        )
    weight = next(learner.parameters(), support_x)
    for name, x in (("support_x", support_x), ("query_x", query_x)):
        if x.is_floating_point() and x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"{name} is {x.dtype} but the weights are {weight.dtype}: use {name}.to({weight.dtype})")
        if not x.is_floating_point():
            raise ValueError(
                f"{name} is {x.dtype}; networks take floating inputs: {name}.float(), images divided by 255"
            )
