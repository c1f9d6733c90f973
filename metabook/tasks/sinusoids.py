# SPDX-License-Identifier: MIT
"""Sine waves as regression tasks: the smallest problem on which learning to
learn can be seen.

Taught in section 3.1.
"""

import math
from typing import Any

import numpy as np
import torch

from metabook.data.random import check_seed, random_bits, random_uniform
from metabook.tasks.episode import Episode

__all__ = ["Sinusoids"]


class Sinusoids:
    """Endless regression tasks y = amplitude * sin(x - phase); task i is a
    function of ``(seed, i)`` alone.

    Amplitudes are uniform in [0.1, 5], phases in [0, pi], inputs in [-5, 5], as
    in section 5.1 of the MAML paper.

    Parameters
    ----------
    shot, query : int
        Points a task in the support and in the query set.
    seed : int

    Raises
    ------
    ValueError
        If there is no point, or the seed is no integer from 0.

    References
    ----------
    Finn, Abbeel & Levine, *Model-Agnostic Meta-Learning*, 2017,
    https://arxiv.org/abs/1703.03400

    Examples
    --------
    >>> Sinusoids(shot=10, query=20, seed=0).sample(3)
    Episode(3 tasks, support 10 x (1,), query 20 x (1,))
    """

    def __init__(
        self, shot: int = 10, query: int = 10, *, seed: int = 0
    ) -> None:
        if shot < 1 or query < 1:
            raise ValueError(
                f"shot is {shot} and query is {query}; both must be at least 1"
            )
        self.shot, self.query, self.seed = shot, query, check_seed(seed)

    def __repr__(self) -> str:
        return (
            f"Sinusoids({self.shot}-shot, {self.query} queries, seed"
            f" {self.seed})"
        )

    def settings(self) -> dict[str, Any]:
        """What tells these tasks from others."""
        return {"shot": self.shot, "query": self.query, "seed": self.seed}

    def waves(
        self, tasks: int, start: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Amplitudes and phases of tasks ``start`` to ``start + tasks - 1``,
        each (T,).
        """
        task = random_bits(self.seed, start + np.arange(tasks))
        amplitude = 0.1 + 4.9 * random_uniform(task, 0)
        return amplitude, math.pi * random_uniform(task, 1)

    def sample(self, tasks: int, start: int = 0) -> Episode:
        """Draw tasks ``start`` to ``start + tasks - 1``; inputs and targets are
        (T, shot or query, 1) float32.
        """
        amplitude, phase = self.waves(tasks, start)
        task = random_bits(self.seed, start + np.arange(tasks))
        x = -5 + 10 * random_uniform(
            task[:, None], 2 + np.arange(self.shot + self.query)
        )
        y = amplitude[:, None] * np.sin(x - phase[:, None])
        x_all, y_all = (
            torch.from_numpy(a[:, :, None].astype(np.float32)) for a in (x, y)
        )
        k = self.shot
        return Episode(x_all[:, :k], y_all[:, :k], x_all[:, k:], y_all[:, k:])
