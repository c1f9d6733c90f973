# SPDX-License-Identifier: MIT
"""Local search: move to the first neighbour that is better; on a summit, start
again somewhere else.

White, Nolen & Savani, *Local Search is State of the Art for Neural Architecture
Search Benchmarks*, 2020, https://arxiv.org/abs/2005.02960. Taught in section
3.2 of the book.
"""

import math
from random import Random
from typing import Any

from metabook.data.random import check_seed
from metabook.nas.space import Architecture, SearchSpace

__all__ = ["LocalSearch"]


class LocalSearch:
    """Climb from a random architecture over better and better neighbours, and
    again from another one.

    Nothing is proposed twice within the neighbourhoods; a start may be.

    Parameters
    ----------
    space : SearchSpace
    seed : int

    Attributes
    ----------
    centre : (score, architecture)
        Where the climb stands.

    Raises
    ------
    ValueError
        If the seed is no integer from 0.

    References
    ----------
    White, Nolen & Savani, 2020, https://arxiv.org/abs/2005.02960

    Examples
    --------
    >>> space = SearchSpace({"width": [8, 16, 32], "depth": [1, 2, 3]})
    >>> strategy = LocalSearch(space, seed=0)
    >>> for _ in range(20):
    ...     arch = strategy.ask()
    ...     strategy.tell(arch, score=arch[0] * arch[1])
    ...     if arch == (32, 3):
    ...         break
    >>> strategy.centre
    (96, (32, 3))
    """

    def __init__(self, space: SearchSpace, *, seed: int = 0) -> None:
        self.space, self.seed = space, check_seed(seed)
        self.rng = Random(self.seed)
        self.centre: tuple[float, Architecture | None] = (-math.inf, None)
        # neighbours of the centre, in random order
        self.untried: list[Architecture] = []
        # random ones that were asked and not yet told
        self.starts: list[Architecture] = []
        # a set that keeps its order, so that equal runs have equal states
        self.seen: dict[Architecture, None] = {}

    def __repr__(self) -> str:
        return "LocalSearch()"

    def settings(self) -> dict[str, Any]:
        """What tells this strategy from another."""
        return {"seed": self.seed}

    def ask(self) -> Architecture:
        """Propose an untried neighbour, or a new start if there is none."""
        if self.untried:
            arch = self.untried.pop()
        else:
            arch = self.space.random(self.rng)
            self.starts.append(arch)
        self.seen[self.space.canonical(arch)] = None
        return arch

    def tell(self, arch: Architecture, score: float | None) -> None:
        """Move to the architecture if it is better than where the climb stands,
        or if it begins a new climb.
        """
        start = arch in self.starts
        if start:
            self.starts.remove(arch)
        if score is not None and (
            score > self.centre[0] or (start and not self.untried)
        ):
            self.centre = (score, arch)
            self.untried = [
                a
                for a in self.space.neighbours(arch)
                if self.space.canonical(a) not in self.seen
            ]
            self.rng.shuffle(self.untried)

    def state_dict(self) -> dict[str, Any]:
        """Where the climb stands, what was tried, and the random state."""
        return {
            "centre": self.centre,
            "untried": list(self.untried),
            "starts": list(self.starts),
            "seen": list(self.seen),
            "random": self.rng.getstate(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken."""
        self.centre = state["centre"]
        self.untried = list(state["untried"])
        self.starts = list(state["starts"])
        self.seen = dict.fromkeys(state["seen"])
        self.rng.setstate(state["random"])
