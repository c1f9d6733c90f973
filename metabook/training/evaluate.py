# SPDX-License-Identifier: MIT
"""Scores with honest intervals: the unit of measurement is the episode, never
the query.

Taught in section 2.1.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from metabook.data.progress import progress_bar
from metabook.learner.labels import query_targets
from metabook.learner.protocol import Learner
from metabook.tasks.episode import Episode, as_episodes
from metabook.tasks.protocol import Tasks

__all__ = [
    "Comparison",
    "Score",
    "as_found",
    "compare",
    "device_of",
    "evaluate",
    "evaluate_steps",
    "score_episodes",
]


@dataclass(frozen=True, eq=False)
class Score:
    """The result of an evaluation.

    Attributes
    ----------
    scores : array, (n,)
        One number an episode: accuracy, or mean loss for regression.
    metric : str
        ``"accuracy"`` or the name of the loss.
    higher_is_better : bool
    transductive : bool
        Whether the learner saw all queries of an episode together.

    Examples
    --------
    >>> Score(
    ...     np.array([0.8, 0.9, 1.0]),
    ...     "accuracy",
    ...     higher_is_better=True,
    ...     transductive=False,
    ... )
    90.00 % ± 24.84 accuracy (95 % interval over 3 episodes, inductive)
    """

    scores: np.ndarray
    metric: str
    higher_is_better: bool
    transductive: bool

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
    first - second: +10.00 ± 0.00 points of accuracy (95 % interval over 3
    shared episodes); 90.00 % and 80.00 %
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


def compare(
    first: Learner,
    second: Learner,
    tasks: Tasks,
    episodes: int = 1000,
    start: int = 0,
    batch: int = 8,
    progress: bool = False,
    metric: str | None = None,
) -> Comparison:
    """Measure two learners on the same episodes.

    Parameters
    ----------
    first, second : Learner
    tasks, episodes, start, batch, progress, metric
        Those of `evaluate`.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If one learner is measured by its accuracy and the other by its loss.

    Examples
    --------
    >>> import metabook as mb
    >>> tasks = mb.FewShotTasks(
    ...     mb.glyphs(classes=20, seed=0), way=5, shot=1, query=3
    ... )
    >>> mb.compare(
    ...     mb.ProtoNet(mb.Conv4()),
    ...     mb.ProtoNet(mb.Conv4(width=8)),
    ...     tasks,
    ...     episodes=20,
    ... ).first.n
    20
    """
    a, b = (
        evaluate(learner, tasks, episodes, start, batch, progress, metric)
        for learner in (first, second)
    )
    if a.metric != b.metric:
        raise ValueError(
            f"the learners are measured by {a.metric} and by {b.metric}, which"
            " cannot be compared"
        )
    return Comparison(a, b)


def evaluate(
    learner: Learner,
    tasks: Tasks,
    episodes: int = 1000,
    start: int = 0,
    batch: int = 8,
    progress: bool = False,
    metric: str | None = None,
) -> Score:
    """Measure a learner on episodes ``start`` to ``start + episodes - 1``.

    The learner is put in evaluation mode, without gradients, and left as it was
    found.

    Parameters
    ----------
    learner : Learner tasks : FewShotTasks, Sinusoids, VariedTasks, or anything
    with ``sample(tasks, start)`` episodes, start : int batch : int
        Episodes computed at once; it changes speed and memory, not the result.
    progress : bool
        Show a bar, where the output is a terminal.
    metric : {"accuracy", "loss"}, optional
        Accuracy a task for classes, and the learner's own loss for regression,
        unless given.

    Returns
    -------
    Score

    Raises
    ------
    FloatingPointError
        If a prediction is not finite.

    Examples
    --------
    >>> import metabook as mb
    >>> tasks = mb.FewShotTasks(
    ...     mb.glyphs(classes=20, seed=0), way=5, shot=1, query=3
    ... )
    >>> mb.evaluate(mb.ProtoNet(mb.Conv4()), tasks, episodes=20).n
    20
    """
    return score_episodes(
        learner,
        tasks,
        episodes,
        start,
        batch,
        progress,
        metric,
        lambda *parts: learner(*parts)[None],
    )[0]


def evaluate_steps(
    learner: Learner,
    tasks: Tasks,
    steps: int = 10,
    episodes: int = 1000,
    start: int = 0,
    batch: int = 8,
    progress: bool = False,
    metric: str | None = None,
) -> list[Score]:
    """Measure a learner of MAML's family after 0, 1, ..., ``steps`` inner
    steps, all on the same episodes.

    The steps at test may be more than those in training, and the best number of
    them is a choice that belongs to validation tasks. The other arguments are
    those of `evaluate`.

    Parameters
    ----------
    learner : Learner
        One that takes ``steps`` when it is called, as `MAML` and its relatives
        do.
    steps : int
        The most inner steps to take.

    Returns
    -------
    list of Score
        Of length ``steps + 1``; entry k is measured after k steps.

    Raises
    ------
    ValueError
        If the learner has no inner steps.

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.MAML(
    ...     mb.MLP(1, 1), inner_lr=0.01, loss_fn=torch.nn.functional.mse_loss
    ... )
    >>> len(mb.evaluate_steps(learner, mb.Sinusoids(), steps=3, episodes=20))
    4
    """
    each_step = getattr(learner, "forward_each_step", None)
    if each_step is None:
        raise ValueError(
            f"{type(learner).__name__} takes no inner steps; measure it with"
            " evaluate"
        )
    return score_episodes(
        learner,
        tasks,
        episodes,
        start,
        batch,
        progress,
        metric,
        partial(each_step, steps=steps),
    )


def score_episodes(
    learner: Learner,
    tasks: Tasks,
    episodes: int,
    start: int,
    batch: int,
    progress: bool,
    metric: str | None,
    predict: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> list[Score]:
    """One score for each of the predictions that ``predict`` returns along its
    first dimension.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; it must be at least 1")
    if metric not in (None, "accuracy", "loss"):
        raise ValueError(f"metric is {metric!r}; choose 'accuracy' or 'loss'")
    device, scores, name = device_of(learner), [], "accuracy"
    with as_found(learner), torch.no_grad():
        for first, episode in _drawn(tasks, episodes, start, batch, progress):
            episode = episode.to(device)
            predictions = predict(
                episode.support_x, episode.support_y, episode.query_x
            )
            targets = query_targets(episode.support_y, episode.query_y)
            if not bool(torch.isfinite(predictions).all()):
                raise FloatingPointError(
                    f"a prediction in episodes {first} to"
                    f" {first + len(episode) - 1} is not finite: the learner"
                    " diverged; a smaller step size is the usual cure"
                )
            if targets.is_floating_point() and metric == "accuracy":
                raise ValueError(
                    "floating targets have no accuracy; measure the loss"
                )
            if targets.is_floating_point() or metric == "loss":
                name = getattr(learner.loss_fn, "__name__", "loss")
                values = torch.stack(
                    [
                        torch.stack(
                            [
                                learner.compare(p, t)
                                for p, t in zip(ps, targets, strict=True)
                            ]
                        )
                        for ps in predictions
                    ]
                )
            else:
                values = (
                    (predictions.argmax(dim=-1) == targets)
                    .cpu()
                    .double()
                    .mean(dim=-1)
                )
            scores.append(values.cpu().double().numpy())
    rows = np.concatenate(scores, axis=1)
    return [
        Score(row, name, name == "accuracy", learner.transductive)
        for row in rows
    ]


def _drawn(
    tasks: Tasks, episodes: int, start: int, batch: int, progress: bool
) -> Iterator[tuple[int, Episode]]:
    """Episodes in turn, each with the number of its first task."""
    steps = range(start, start + episodes, batch)
    for first in progress_bar(
        steps, desc="evaluate", show=progress, leave=False
    ):
        for i, episode in enumerate(
            as_episodes(
                tasks.sample(min(batch, start + episodes - first), first)
            )
        ):
            yield first + i, episode  # a list has one task an episode


def device_of(learner: Learner) -> torch.device:
    """Where the learner's parameters live; the CPU if it has none."""
    parameter = next(learner.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


@contextmanager
def as_found(learner: Learner) -> Iterator[None]:
    """Evaluation mode inside; every module's own mode again afterwards."""
    modes = {module: module.training for module in learner.modules()}
    learner.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
