# SPDX-License-Identifier: MIT
"""What is measured on a task: accuracy, the learner's own loss, or a function
of one's own. Taught in section 2.1.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, SupportsFloat, TypeAlias

import numpy as np
import torch
from torch import Tensor

from metabook.learner.protocol import Learner

__all__ = ["Answers", "Metric", "MetricFn", "accuracies", "choose_metric"]

# metric(scores, targets) of one task: scores (Q, way) and columns (Q,), or
# predictions and floating targets of the same shape
MetricFn: TypeAlias = Callable[[Tensor, Tensor], SupportsFloat]


class Metric(NamedTuple):
    """A measure, with what a `Score` says of it.

    Attributes
    ----------
    name : str
    higher_is_better : bool
    of_tasks : callable
        Predictions (T, Q, ...) and targets (T, Q, ...) to one number a task, an
        array of float64, (T,).
    """

    name: str
    higher_is_better: bool
    of_tasks: Callable[[Tensor, Tensor], np.ndarray]


def choose_metric(
    metric: str | MetricFn | None,
    higher_is_better: bool,
    learner: Learner,
    targets: Tensor,
) -> Metric:
    """What ``metric`` means for this learner and for targets of this kind.

    Raises
    ------
    ValueError
        If there is no such metric, or floating targets meet the accuracy.
    """
    if callable(metric):
        name = getattr(metric, "__name__", type(metric).__name__)
        of_tasks = partial(_one_by_one, _as_numpy_can(metric), name)
        return Metric(name, higher_is_better, of_tasks)
    if metric not in (None, "accuracy", "loss"):
        raise ValueError(
            f"metric is {metric!r}; choose 'accuracy', 'loss', or a function"
            " metric(scores, targets) of one task"
        )
    if targets.is_floating_point() and metric == "accuracy":
        raise ValueError("floating targets have no accuracy; measure the loss")
    if targets.is_floating_point() or metric == "loss":
        name = getattr(learner.loss_fn, "__name__", "loss")
        return Metric(name, False, partial(_one_by_one, learner.compare, name))
    return Metric("accuracy", True, accuracies)


def accuracies(predictions: Tensor, targets: Tensor) -> np.ndarray:
    """The share of each task's queries whose highest score is the right one."""
    right = predictions.argmax(dim=-1) == targets
    shares: np.ndarray = right.cpu().double().mean(dim=-1).numpy()
    return shares


def _one_by_one(
    metric: MetricFn, name: str, predictions: Tensor, targets: Tensor
) -> np.ndarray:
    pairs = zip(predictions, targets, strict=True)
    return np.array([_number(name, metric(p, t)) for p, t in pairs])


def _number(name: str, value: SupportsFloat) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        shape = getattr(value, "shape", None)
        raise ValueError(
            f"{name} returned"
            f" {type(value).__name__ if shape is None else tuple(shape)}; a"
            " metric returns one number a task, such as a mean over queries"
        ) from None


def _as_numpy_can(metric: MetricFn) -> MetricFn:
    """The metric of tensors that NumPy and scikit-learn can read: on the CPU,
    and of no half precision.
    """

    def readable(x: Tensor) -> Tensor:
        half = x.dtype in (torch.bfloat16, torch.float16)
        return x.cpu().float() if half else x.cpu()

    return lambda scores, targets: metric(readable(scores), readable(targets))


class Answers:
    """Which class was taken for which, counted over episodes that name their
    classes.

    What is kept is a list of pairs and not a matrix: of the million pairs of a
    thousand classes, few ever meet.
    """

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}  # of the classes, as they come
        self.pairs: list[np.ndarray] = []

    def add(
        self,
        class_names: Sequence[Sequence[str]],
        predictions: Tensor,
        targets: Tensor,
    ) -> None:
        """Take note of K predictions for each query.

        Parameters
        ----------
        class_names : sequence of sequence of str
            Of each task, in the order of its columns.
        predictions : Tensor, (K, T, Q, way)
        targets : Tensor of columns, (T, Q)
        """
        numbers = self.numbers
        classes = np.array(
            [
                [numbers.setdefault(name, len(numbers)) for name in names]
                for names in class_names
            ]
        )
        true = np.take_along_axis(classes, targets.cpu().numpy(), axis=1)
        columns = predictions.argmax(dim=-1).cpu().numpy()
        predicted = np.take_along_axis(classes[None], columns, axis=2)
        pairs = true << 32 | predicted  # two numbers in one, (K, T, Q)
        self.pairs.append(pairs.reshape(len(pairs), -1))

    def counted(self) -> list[dict[tuple[str, str], int]]:
        """For each of the K predictions, the queries of each (class, predicted
        class).
        """
        names = list(self.numbers)
        counts = (
            np.unique(row, return_counts=True)
            for row in np.concatenate(self.pairs, axis=1)
        )
        return [
            {
                (names[pair >> 32], names[pair & 0xFFFFFFFF]): n
                for pair, n in zip(*(a.tolist() for a in both), strict=True)
            }
            for both in counts
        ]
