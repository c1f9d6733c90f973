# SPDX-License-Identifier: MIT
"""What is measured on a task: accuracy, the learner's own loss, or a function
of one's own. Taught in section 2.1.
"""

from collections.abc import Callable, Sequence
from typing import SupportsFloat, TypeAlias

import numpy as np
import torch
from torch import Tensor

from metabook.learner.labels import chosen_columns
from metabook.learner.protocol import Learner

__all__ = ["Accuracy", "MetricFn", "TaskByTask", "choose_metric"]

# metric(scores, targets) of one task: scores (Q, way) and columns (Q,), or
# predictions and floating targets of the same shape
MetricFn: TypeAlias = Callable[[Tensor, Tensor], SupportsFloat]
ClassNames: TypeAlias = Sequence[Sequence[str]]  # of each task, by column

DENSE = 2**20  # pairs of classes that may be counted in one array


def choose_metric(
    metric: str | MetricFn | None,
    higher_is_better: bool,
    learner: Learner,
    classed: bool,
) -> "Accuracy | TaskByTask":
    """What ``metric`` means for this learner, and for targets that are class
    labels or something else.

    Raises
    ------
    ValueError
        If there is no such metric, or no accuracy of such targets.
    """
    if callable(metric):
        name = getattr(metric, "__name__", type(metric).__name__)
        return TaskByTask(name, higher_is_better, _readable_by_numpy(metric))
    if metric not in (None, "accuracy", "loss"):
        raise ValueError(
            f"metric is {metric!r}; choose 'accuracy', 'loss', or a function"
            " metric(scores, targets) of one task"
        )
    if metric == "accuracy" and not classed:
        raise ValueError(
            "only one class label an example has an accuracy: measure the loss,"
            " or by a function metric(predictions, targets) of one task"
        )
    if metric == "loss" or not classed:
        name = getattr(learner.loss_fn, "__name__", "loss")
        return TaskByTask(name, False, learner.compare)
    return Accuracy()


class TaskByTask:
    """A function of one task's predictions and targets."""

    def __init__(
        self, name: str, higher_is_better: bool, of_task: MetricFn
    ) -> None:
        self.name, self.higher_is_better = name, higher_is_better
        self.of_task = of_task

    def __call__(
        self,
        predictions: Tensor,
        targets: Tensor,
        way: int | None,
        class_names: ClassNames | None,
    ) -> np.ndarray:
        """Predictions (K, T, Q, ...) and targets (T, Q, ...) to numbers (K,
        T).
        """
        return np.array(
            [
                [
                    self._number(self.of_task(p, t))
                    for p, t in zip(each, targets, strict=True)
                ]
                for each in predictions
            ]
        )

    def _number(self, value: SupportsFloat) -> float:
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError):
            shape = getattr(value, "shape", None)
            raise ValueError(
                f"{self.name} returned"
                f" {type(value).__name__ if shape is None else tuple(shape)}; a"
                " metric returns one number a task, such as a mean over queries"
            ) from None

    def answers(self) -> None:
        """Only an accuracy knows which class was taken for which."""


class Accuracy:
    """The share of a task's queries whose highest score is the right one; and
    which class was taken for which, where episodes name their classes.
    """

    name, higher_is_better = "accuracy", True

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}  # of the classes, as they come
        # true and predicted classes, (2, K, queries) each; None once an episode
        # had no names, since a part of the answers would mislead
        self.pairs: list[np.ndarray] | None = []

    def __call__(
        self,
        predictions: Tensor,
        targets: Tensor,
        way: int | None,
        class_names: ClassNames | None,
    ) -> np.ndarray:
        """Scores (K, T, Q, way) and columns (T, Q) to accuracies (K, T)."""
        assert way is not None
        columns = predictions.shape[-1]
        if columns != way and (columns, way) != (1, 2):
            raise ValueError(
                f"the scores have {columns} columns but the tasks have {way}"
                " classes: column j scores the j-th smallest label"
            )
        chosen = chosen_columns(predictions, way).cpu().numpy()
        right = targets.cpu().numpy()
        if class_names is None:
            self.pairs = None
        elif self.pairs is not None:
            _check_names(class_names, way)
            self.pairs.append(self._named(class_names, right, chosen))
        shares: np.ndarray = (chosen == right).mean(axis=-1)
        return shares

    def _named(
        self, class_names: ClassNames, right: np.ndarray, chosen: np.ndarray
    ) -> np.ndarray:
        """Columns (T, Q) and (K, T, Q) as numbers of classes, (2, K, T * Q)."""
        numbers = self.numbers
        classes = np.array(
            [
                [numbers.setdefault(name, len(numbers)) for name in names]
                for names in class_names
            ]
        )
        first = classes.shape[1] * np.arange(len(classes))[:, None]
        both = np.broadcast_arrays(right, chosen)
        return np.stack(
            [classes.take(first + columns) for columns in both]
        ).reshape(2, len(chosen), -1)

    def answers(self) -> list[dict[tuple[str, str], int]] | None:
        """For each of the K predictions, the queries of each (class, predicted
        class) that occurred.
        """
        if self.pairs is None:
            return None
        names = list(self.numbers)
        true, predicted = np.concatenate(self.pairs, axis=2)
        return [
            {
                (names[pair // len(names)], names[pair % len(names)]): n
                for pair, n in _counts(each, len(names) ** 2)
            }
            for each in true * len(names) + predicted
        ]


def _check_names(class_names: ClassNames, way: int) -> None:
    numbers = sorted({len(names) for names in class_names})
    if numbers != [way]:
        raise ValueError(
            f"the tasks have {way} classes but {numbers} class_names: name j"
            " belongs to the j-th smallest label"
        )


def _counts(numbers: np.ndarray, below: int) -> list[tuple[int, int]]:
    """How often each number occurs. Of the million pairs of a thousand classes
    few ever meet; up to there an array of counts is faster than sorting.
    """
    if below <= DENSE:
        counts = np.bincount(numbers)
        values = counts.nonzero()[0]
        counts = counts[values]
    else:
        values, counts = np.unique(numbers, return_counts=True)
    return list(zip(values.tolist(), counts.tolist(), strict=True))


def _readable_by_numpy(metric: MetricFn) -> MetricFn:
    """The metric of tensors that NumPy and scikit-learn can read: on the CPU,
    and of no half precision.
    """

    def readable(x: Tensor) -> Tensor:
        half = x.dtype in (torch.bfloat16, torch.float16)
        return x.cpu().float() if half else x.cpu()

    return lambda scores, targets: metric(readable(scores), readable(targets))
