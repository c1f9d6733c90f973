# SPDX-License-Identifier: MIT
"""Evaluation: a learner on many episodes, each of which is one measurement.
Taught in section 2.1.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor

from metabook.data.progress import progress_bar
from metabook.learner.labels import columns_of, has_classes, label_columns
from metabook.learner.precision import forget_casts
from metabook.learner.protocol import Learner
from metabook.learner.weights import like_weights
from metabook.tasks.episode import Episode, as_episodes
from metabook.tasks.protocol import Tasks
from metabook.training.metrics import (
    Accuracy,
    MetricFn,
    TaskByTask,
    choose_metric,
)
from metabook.training.scores import Comparison, Score

__all__ = [
    "as_found",
    "compare",
    "device_of",
    "evaluate",
    "evaluate_steps",
    "placed",
    "score_episodes",
]


def compare(
    first: Learner,
    second: Learner,
    tasks: Tasks,
    episodes: int = 1000,
    *,
    start: int = 0,
    batch: int = 8,
    progress: bool = True,
    metric: str | MetricFn | None = None,
    higher_is_better: bool = True,
) -> Comparison:
    """Measure two learners on the same episodes.

    Parameters
    ----------
    first, second : Learner
    tasks, episodes, start, batch, progress, metric, higher_is_better
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
        evaluate(
            learner,
            tasks,
            episodes,
            start=start,
            batch=batch,
            progress=progress,
            metric=metric,
            higher_is_better=higher_is_better,
        )
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
    *,
    start: int = 0,
    batch: int = 8,
    progress: bool = True,
    metric: str | MetricFn | None = None,
    higher_is_better: bool = True,
) -> Score:
    """Measure a learner on episodes ``start`` to ``start + episodes - 1``.

    The learner is put in evaluation mode, without gradients, and left as it was
    found. Episodes in float32 are taken to the type of its weights.

    Parameters
    ----------
    learner : Learner
    tasks : FewShotTasks, Sinusoids, VariedTasks or another
        Anything with ``sample(tasks, start)``.
    episodes, start : int
    batch : int
        Episodes computed at once; it changes speed and memory, not the result.
    progress : bool
        Show a bar, where the output is a terminal.
    metric : {"accuracy", "loss"} or callable, optional
        Accuracy for classes, and the learner's own loss for other targets,
        unless given. ``metric(scores, targets)`` of one task returns a number:
        scores (Q, way) meet columns (Q,), and predictions of other targets meet
        the targets as they are, both on the CPU.
    higher_is_better : bool
        Of a metric of one's own; accuracy and loss know.

    Returns
    -------
    Score

    Raises
    ------
    FloatingPointError
        If a prediction is not finite, or what the metric makes of it.
    ValueError
        If ``tasks`` returns more or fewer episodes than it is asked for.

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.ProtoNet(mb.Conv4())
    >>> tasks = mb.FewShotTasks(
    ...     mb.glyphs(classes=20, seed=0), way=5, shot=1, query=3
    ... )
    >>> mb.evaluate(learner, tasks, episodes=20).n
    20

    A metric of one's own, here the Brier score, and its name:

    >>> def brier(scores, targets):
    ...     truth = torch.nn.functional.one_hot(targets, scores.shape[1])
    ...     return (scores.softmax(dim=1) - truth).square().sum(dim=1).mean()
    >>> score = mb.evaluate(
    ...     learner, tasks, 20, metric=brier, higher_is_better=False
    ... )
    >>> score.metric, bool(0 < score.mean < 2)
    ('brier', True)
    """
    return score_episodes(
        learner,
        tasks,
        episodes,
        lambda *parts: learner(*parts)[None],
        start=start,
        batch=batch,
        progress=progress,
        metric=metric,
        higher_is_better=higher_is_better,
    )[0]


def evaluate_steps(
    learner: Learner,
    tasks: Tasks,
    steps: int = 10,
    episodes: int = 1000,
    *,
    start: int = 0,
    batch: int = 8,
    progress: bool = True,
    metric: str | MetricFn | None = None,
    higher_is_better: bool = True,
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
        partial(each_step, steps=steps),
        start=start,
        batch=batch,
        progress=progress,
        metric=metric,
        higher_is_better=higher_is_better,
    )


def score_episodes(
    learner: Learner,
    tasks: Tasks,
    episodes: int,
    predict: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    start: int,
    batch: int,
    progress: bool,
    metric: str | MetricFn | None,
    higher_is_better: bool,
) -> list[Score]:
    """One score for each of the K predictions that ``predict`` returns along
    its first dimension, (K, T, Q, ...).
    """
    for name, value, least in (
        ("episodes", episodes, 1),
        ("start", start, 0),
        ("batch", batch, 1),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    rows: list[np.ndarray] = []
    measure: Accuracy | TaskByTask | None = None
    forget_casts()
    with as_found(learner), torch.no_grad():
        for first, episode in _drawn(tasks, episodes, start, batch, progress):
            where = f"in episodes {first} to {first + len(episode) - 1}"
            episode = placed(episode, learner)
            predictions = predict(
                episode.support_x, episode.support_y, episode.query_x
            )
            targets, way = _targets(episode)
            if not bool(torch.isfinite(predictions).all()):
                raise FloatingPointError(
                    f"a prediction {where} is not finite: the learner diverged;"
                    " a smaller step size is the usual cure"
                )
            measure = measure or choose_metric(
                metric, higher_is_better, learner, classed=way is not None
            )
            rows.append(measure(predictions, targets, way, episode.class_names))
            if not np.isfinite(rows[-1]).all():
                raise FloatingPointError(
                    f"{measure.name} {where} is not finite, though the"
                    " predictions are: a mean needs a number from every task"
                )
    assert measure is not None
    scores = np.concatenate(rows, axis=1)  # (K, episodes)
    about = measure.name, measure.higher_is_better, learner.transductive
    answers = measure.answers()
    if answers is None:
        return [Score(row, *about) for row in scores]
    return [
        Score(row, *about, pairs)
        for row, pairs in zip(scores, answers, strict=True)
    ]


def _drawn(
    tasks: Tasks, episodes: int, start: int, batch: int, progress: bool
) -> Iterator[tuple[int, Episode]]:
    """Episodes in turn, each with the number of its first task."""
    steps = range(start, start + episodes, batch)
    for first in progress_bar(
        steps, desc="evaluate", show=progress, leave=False
    ):
        asked = min(batch, start + episodes - first)
        drawn = as_episodes(tasks.sample(asked, first))
        if (found := sum(map(len, drawn))) != asked:
            raise ValueError(
                f"{type(tasks).__name__}.sample({asked}, {first}) returned"
                f" {found} tasks: it must return as many as it is asked for."
                " metabook.testing.check_tasks tests what else tasks must do"
            )
        for i, episode in enumerate(drawn):
            yield first + i, episode  # a list has one task an episode


def _targets(episode: Episode) -> tuple[Tensor, int | None]:
    """Columns and the number of classes; other targets as they are."""
    if not has_classes(episode.support_y):
        return episode.query_y, None
    classes, _ = label_columns(episode.support_y)
    return columns_of(episode.query_y, classes), classes.shape[1]


def placed(episode: Episode, learner: Learner) -> Episode:
    """The episode where the learner is, and in the precision of its weights."""
    return Episode(
        like_weights(episode.support_x, learner),
        like_weights(episode.support_y, learner),
        like_weights(episode.query_x, learner),
        like_weights(episode.query_y, learner),
        class_names=episode.class_names,
    )


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
