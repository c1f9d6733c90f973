# SPDX-License-Identifier: MIT
"""Random search: the baseline, and the smallest strategy.

Read this file to write your own. A strategy proposes architectures and is told
their scores. It has five names: `space`, `ask`, `tell`, `state_dict` and
`load_state_dict`, and to be kept in a folder a sixth, `settings`;
`metabook.testing.check_strategy` tests whether they do what `search` needs.

Li & Talwalkar, *Random Search and Reproducibility for Neural Architecture
Search*, 2019, https://arxiv.org/abs/1902.07638. Taught in section 3.2 of the
book.
"""

from random import Random
from typing import Any

from metabook.data.random import check_seed
from metabook.nas.space import Architecture, SearchSpace

__all__ = ["RandomSearch"]


class RandomSearch:
    """Propose architectures at random, each independent of what came before, so
    that small spaces see repeats.

    Parameters
    ----------
    space : SearchSpace
    seed : int

    Raises
    ------
    ValueError
        If the seed is no integer from 0.

    References
    ----------
    Li & Talwalkar, 2019, https://arxiv.org/abs/1902.07638

    Examples
    --------
    >>> space = SearchSpace({"width": [8, 16, 32], "depth": [1, 2, 3]})
    >>> strategy = RandomSearch(space, seed=0)
    >>> strategy.ask()
    (32, 3)
    """

    def __init__(self, space: SearchSpace, *, seed: int = 0) -> None:
        self.space, self.seed = space, check_seed(seed)
        self.rng = Random(self.seed)

    def __repr__(self) -> str:
        return "RandomSearch()"

    def settings(self) -> dict[str, Any]:
        """What tells this strategy from another: a search that is kept in a
        folder is known by it.
        """
        return {"seed": self.seed}

    def ask(self) -> Architecture:
        """Propose an architecture, perhaps before the last score is known."""
        return self.space.random(self.rng)

    def tell(self, arch: Architecture, score: float | None) -> None:
        """Take note of a score, higher being better; ``None`` if the evaluation
        failed. Told in the order asked.
        """

    def state_dict(self) -> dict[str, Any]:
        """All that a later proposal depends on, in numbers, strings, tuples,
        lists, dicts and tensors.
        """
        return {"random": self.rng.getstate()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken."""
        self.rng.setstate(state["random"])
