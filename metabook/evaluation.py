# SPDX-License-Identifier: MIT
"""Scores with honest intervals: the unit of measurement is the episode, never the query. Taught in section 2.1."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from tqdm import tqdm

from metabook.learner import Learner, query_targets
from metabook.tasks.episode import Episode

__all__ = ["Score", "Tasks", "device_of", "evaluate"]


class Tasks(Protocol):
    """Where episodes come from: `FewShotTasks`, `Sinusoids`, or anything with this method."""

    def sample(self, tasks: int, start: int = 0) -> Episode:
        """Tasks ``start`` to ``start + tasks - 1`` as one batch."""


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
    >>> Score(np.array([0.8, 0.9, 1.0]), "accuracy", higher_is_better=True, transductive=False)
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
        """Half-width of the 95 % t-interval of the mean: t_{.975, n-1} s / sqrt(n), over episodes."""
        from scipy.special import stdtrit

        if self.n < 2:
            return math.inf
        return float(stdtrit(self.n - 1, 0.975) * self.scores.std(ddof=1) / math.sqrt(self.n))

    def better_than(self, mean: float | None) -> bool:
        """Whether this mean is better than another; anything is better than ``None``."""
        return mean is None or (self.mean > mean if self.higher_is_better else self.mean < mean)

    def __repr__(self) -> str:
        if self.metric == "accuracy":
            value = f"{100 * self.mean:.2f} % ± {100 * self.ci95:.2f} accuracy"
        else:
            value = f"{self.mean:.4f} ± {self.ci95:.4f} {self.metric}"
        kind = "transductive" if self.transductive else "inductive"
        return f"{value} (95 % interval over {self.n:,} episodes, {kind})"


def evaluate(
    learner: Learner, tasks: Tasks, episodes: int = 1000, start: int = 0, batch: int = 8, progress: bool = False
) -> Score:
    """Measure a learner on episodes ``start`` to ``start + episodes - 1``.

    The learner is put in evaluation mode, without gradients, and left as it was found.

    Parameters
    ----------
    learner : Learner
    tasks : FewShotTasks, Sinusoids, or anything with ``sample(tasks, start)``
    episodes, start : int
    batch : int
        Episodes computed at once; it changes speed and memory, not the result.
    progress : bool
        Show a bar, where the output is a terminal.

    Returns
    -------
    Score
        Accuracy a task for classes; the learner's own loss a task for regression.

    Raises
    ------
    FloatingPointError
        If a prediction is not finite.

    Examples
    --------
    >>> import metabook as mb
    >>> tasks = mb.FewShotTasks(mb.glyphs(classes=20, seed=0), way=5, shot=1, query=3)
    >>> mb.evaluate(mb.ProtoNet(mb.Conv4()), tasks, episodes=20).n
    20
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; it must be at least 1")
    device, scores, metric = device_of(learner), [], "accuracy"
    steps = range(start, start + episodes, batch)
    with _as_found(learner), torch.no_grad():
        for first in tqdm(steps, desc="evaluate", disable=None if progress else True, leave=False):
            episode = tasks.sample(min(batch, start + episodes - first), first).to(device)
            predictions = learner(episode.support_x, episode.support_y, episode.query_x)
            targets = query_targets(episode.support_y, episode.query_y)
            if not bool(torch.isfinite(predictions).all()):
                raise FloatingPointError(
                    f"a prediction in episodes {first} to {first + len(episode) - 1} is not finite: the learner "
                    "diverged; a smaller step size is the usual cure"
                )
            if targets.is_floating_point():
                metric = getattr(learner.loss_fn, "__name__", "loss")
                values = torch.stack([learner.compare(p, t) for p, t in zip(predictions, targets, strict=True)])
            else:
                values = (predictions.argmax(dim=-1) == targets).cpu().double().mean(dim=1)
            scores.append(values.cpu().double().numpy())
    return Score(np.concatenate(scores), metric, metric == "accuracy", learner.transductive)


def device_of(learner: Learner) -> torch.device:
    """Where the learner's parameters live; the CPU if it has none."""
    parameter = next(learner.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


@contextmanager
def _as_found(learner: Learner) -> Iterator[None]:
    """Evaluation mode inside; every module's own mode again afterwards."""
    modes = {module: module.training for module in learner.modules()}
    learner.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
