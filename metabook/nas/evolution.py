# SPDX-License-Identifier: MIT
"""Regularized evolution: the best of a few random individuals has a child, and
the oldest dies.

Real, Aggarwal, Huang & Le, *Regularized Evolution for Image Classifier
Architecture Search*, 2019, Algorithm 1, https://arxiv.org/abs/1802.01548.
Taught in section 3.2 of the book.
"""

import math
from random import Random
from typing import Any

import numpy as np

from metabook.data.random import check_seed
from metabook.nas.space import Architecture, SearchSpace

__all__ = ["RegularizedEvolution"]


class RegularizedEvolution:
    """Tournament selection, one mutation a child, death of old age.

    The first ``population`` proposals are random, and count. Every later one
    changes one decision of the best among ``sample`` individuals, which are
    drawn with replacement; its own place in the population is that of the
    oldest, however good. An architecture lasts only if its children score well
    again.

    Parameters
    ----------
    space : SearchSpace
    population, sample : int
        A larger sample follows the best more greedily, a larger population
        keeps old ones longer.
    seed : int

    Attributes
    ----------
    population : list of (score, architecture)
        A ring: `oldest` is the position of the one that dies next.
    parent : architecture or None
        The parent of the last proposal; ``None`` if that was random.

    Raises
    ------
    ValueError
        If nobody lives, nobody meets, or the seed is no integer from 0.

    References
    ----------
    Real, Aggarwal, Huang & Le, 2019, https://arxiv.org/abs/1802.01548

    Examples
    --------
    >>> space = SearchSpace({"width": [8, 16, 32], "depth": [1, 2, 3]})
    >>> strategy = RegularizedEvolution(space, population=4, sample=2, seed=0)
    >>> for _ in range(20):
    ...     arch = strategy.ask()
    ...     strategy.tell(arch, score=arch[0] * arch[1])
    >>> max(strategy.population)
    (96, (32, 3))
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        population: int = 50,
        sample: int = 10,
        seed: int = 0,
    ) -> None:
        for name, value in (("population", population), ("sample", sample)):
            if not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(
                    f"{name} is {value!r}; it must be an integer from 1"
                )
        self.space, self.size, self.sample = space, population, sample
        self.seed = check_seed(seed)
        self.rng = Random(self.seed)
        self.population: list[tuple[float, Architecture]] = []
        self.parent: Architecture | None = None
        self.asked = self.oldest = 0

    def __repr__(self) -> str:
        return (
            f"RegularizedEvolution(population={self.size},"
            f" sample={self.sample})"
        )

    def settings(self) -> dict[str, Any]:
        """What tells this strategy from another."""
        return {
            "population": self.size,
            "sample": self.sample,
            "seed": self.seed,
        }

    def ask(self) -> Architecture:
        """Propose a random architecture at first, then a winner's mutation."""
        self.asked += 1
        if self.asked <= self.size or not self.population:
            self.parent = None
            return self.space.random(self.rng)
        population, random = self.population, self.rng.random
        alive = len(population)
        best = population[int(random() * alive)]
        for _ in range(self.sample - 1):
            other = population[int(random() * alive)]
            if other[0] > best[0]:
                best = other
        self.parent = best[1]
        return self.space.mutate(self.parent, self.rng)

    def tell(self, arch: Architecture, score: float | None) -> None:
        """Let the architecture into the population, in the place of the oldest;
        after a failure it wins no tournament.
        """
        individual = (-math.inf if score is None else score, arch)
        if len(self.population) < self.size:
            self.population.append(individual)
        else:
            self.population[self.oldest] = individual
            self.oldest = (self.oldest + 1) % self.size

    def state_dict(self) -> dict[str, Any]:
        """Population, ages and random state."""
        return {
            "population": list(self.population),
            "asked": self.asked,
            "oldest": self.oldest,
            "random": self.rng.getstate(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken."""
        self.population = list(state["population"])
        self.asked, self.oldest = state["asked"], state["oldest"]
        self.rng.setstate(state["random"])
