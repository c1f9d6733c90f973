# SPDX-License-Identifier: MIT
"""Scores with honest intervals: the unit of measurement is the episode, never
the query. Taught in section 2.1.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

__all__ = ["ClassAccuracy", "Comparison", "Confusion", "Score", "half_width"]


class ClassAccuracy(NamedTuple):
    """How often the queries of one class were recognised."""

    accuracy: float
    queries: int


class Confusion(NamedTuple):
    """Which class was taken for which.

    Attributes
    ----------
    names : tuple of str, (C,)
        In alphabetical order.
    matrix : array of int64, (C, C)
        Entry (i, j): queries of class i that were taken for class j.
    """

    names: tuple[str, ...]
    matrix: np.ndarray


@dataclass(frozen=True, eq=False)
class Score:
    """The result of an evaluation.

    Attributes
    ----------
    scores : array, (n,)
        One number an episode: accuracy, mean loss, or what a metric of one's
        own returned.
    metric : str
        ``"accuracy"``, the name of the loss, or that of the metric.
    higher_is_better : bool
    transductive : bool
        Whether the learner saw all queries of an episode together.
    answers : mapping of (str, str) to int, optional
        Queries of each pair (their class, the predicted class), over all
        episodes. Only accuracies have them, where episodes name their classes.

    Examples
    --------
    >>> score = Score(
    ...     np.array([0.8, 0.9, 1.0]),
    ...     "accuracy",
    ...     higher_is_better=True,
    ...     transductive=False,
    ...     answers={("1", "1"): 9, ("1", "7"): 1, ("7", "7"): 10},
    ... )
    >>> score
    90.00 % ± 24.84 accuracy (95 % interval over 3 episodes, inductive)
    >>> score.per_class["1"]
    ClassAccuracy(accuracy=0.9, queries=10)
    >>> score.confusion.matrix.tolist()
    [[9, 1], [0, 10]]
    """

    scores: np.ndarray
    metric: str
    higher_is_better: bool
    transductive: bool
    answers: Mapping[tuple[str, str], int] | None = None

    @property
    def n(self) -> int:
        """Number of episodes."""
        return len(self.scores)

    @property
    def mean(self) -> float:
        """Mean over the episodes."""
        return float(self.scores.mean())

    @property
    def ci95(self) -> float:
        """Half-width of the 95 % t-interval of the mean, over episodes:
        t_{.975, n-1} s / sqrt(n).
        """
        return half_width(self.scores)

    @property
    def per_class(self) -> dict[str, ClassAccuracy]:
        """Of each class, the share of its queries that were recognised, over
        all episodes, and how many there were.

        Raises
        ------
        ValueError
            If the score is no accuracy, or the episodes do not name their
            classes.
        """
        queries: Counter[str] = Counter()
        right: Counter[str] = Counter()
        for (name, predicted), n in self._answers().items():
            queries[name] += n
            right[name] += n * (name == predicted)
        return {
            name: ClassAccuracy(right[name] / queries[name], queries[name])
            for name in sorted(queries)
        }

    @property
    def confusion(self) -> Confusion:
        """Which class was taken for which, over all episodes. An episode offers
        few of the classes, so most pairs of many classes never met.

        Raises
        ------
        ValueError
            If the score is no accuracy, or the episodes do not name their
            classes.
        """
        answers = self._answers()
        names = sorted({name for pair in answers for name in pair})
        row = {name: i for i, name in enumerate(names)}
        matrix = np.zeros((len(names), len(names)), np.int64)
        for (name, predicted), n in answers.items():
            matrix[row[name], row[predicted]] = n
        return Confusion(tuple(names), matrix)

    def _answers(self) -> Mapping[tuple[str, str], int]:
        if self.answers is None:
            raise ValueError(
                "this score does not know its classes: only an accuracy does,"
                " over tasks whose episodes have class_names, such as"
                " FewShotTasks"
            )
        return self.answers

    def better_than(self, mean: float | None) -> bool:
        """Whether this mean is better; anything is better than ``None``."""
        return mean is None or (
            self.mean > mean if self.higher_is_better else self.mean < mean
        )

    def __repr__(self) -> str:
        if self.metric == "accuracy":
            value = f"{100 * self.mean:.2f} % ± {100 * self.ci95:.2f} accuracy"
        else:
            value = f"{self.mean:.4f} ± {self.ci95:.4f} {self.metric}"
        kind = "transductive" if self.transductive else "inductive"
        return f"{value} (95 % interval over {self.n:,} episodes, {kind})"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two learners on the same episodes.

    Episodes differ in difficulty, and both learners meet the same ones: the
    differences vary less than the scores, so the interval of their mean is
    narrower than two separate intervals suggest.

    Attributes
    ----------
    first, second : Score

    Examples
    --------
    >>> one, two = (
    ...     Score(np.array(a), "accuracy", True, False)
    ...     for a in ([0.8, 0.9, 1.0], [0.7, 0.8, 0.9])
    ... )
    >>> Comparison(one, two)  # doctest: +NORMALIZE_WHITESPACE
    first - second: +10.00 ± 0.00 points of accuracy (95 % interval over
    3 shared episodes); 90.00 % and 80.00 %
    """

    first: Score
    second: Score

    @property
    def differences(self) -> np.ndarray:
        """First minus second, (n,), episode by episode."""
        difference: np.ndarray = self.first.scores - self.second.scores
        return difference

    @property
    def mean(self) -> float:
        """Mean difference."""
        return float(self.differences.mean())

    @property
    def ci95(self) -> float:
        """Half-width of the 95 % t-interval of the mean difference."""
        return half_width(self.differences)

    def __repr__(self) -> str:
        a, b = self.first, self.second
        over = f"(95 % interval over {a.n:,} shared episodes)"
        if a.metric == "accuracy":
            difference = (
                f"{100 * self.mean:+.2f} ± {100 * self.ci95:.2f} points of"
                " accuracy"
            )
            return (
                f"first - second: {difference} {over}; {100 * a.mean:.2f} % and"
                f" {100 * b.mean:.2f} %"
            )
        return (
            f"first - second: {self.mean:+.4f} ± {self.ci95:.4f} {a.metric}"
            f" {over}; {a.mean:.4f} and {b.mean:.4f}"
        )


def half_width(values: np.ndarray) -> float:
    """Half-width of the 95 % t-interval of the mean of independent values;
    infinite for a single one.
    """
    from scipy.special import stdtrit

    n = len(values)
    return (
        float(stdtrit(n - 1, 0.975) * values.std(ddof=1) / math.sqrt(n))
        if n > 1
        else math.inf
    )
