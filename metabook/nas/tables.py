# SPDX-License-Identifier: MIT
"""Tables of networks that somebody has trained already: search becomes a matter
of milliseconds, with a known best. Taught in section 3.2 of the book.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from metabook.data.settings import described
from metabook.nas.space import Architecture, SearchSpace

__all__ = ["Table"]


class Table:
    """Every architecture of a space with its accuracies.

    Parameters
    ----------
    space : SearchSpace
    valid : mapping of int to array, (architectures,) or (architectures, seeds)
        Validation accuracy after each budget (epochs or iterations), in the
        order in which the space lists its architectures; one column for each
        training from another seed.
    test : array, (architectures,) or (architectures, seeds)
        Test accuracy after the full training.
    costs : mapping of str to array, (architectures,), optional
        What each architecture costs, by the name of the cost.

    Attributes
    ----------
    budgets : tuple of int
        Ascending.

    Raises
    ------
    ValueError
        If the arrays do not have one row for each architecture.

    Examples
    --------
    >>> space = SearchSpace({"width": [8, 16], "depth": [1, 2]})
    >>> table = Table(
    ...     space,
    ...     valid={1: [0.3, 0.2, 0.4, 0.5], 9: [0.5, 0.6, 0.7, 0.8]},
    ...     test=[0.6, 0.5, 0.8, 0.7],
    ... )
    >>> table.best
    (16, 1)
    >>> table.valid((16, 1)), table.valid((16, 1), budget=1)
    (0.7, 0.4)
    >>> table.test((16, 1))
    0.8
    """

    def __init__(
        self,
        space: SearchSpace,
        valid: Mapping[int, ArrayLike],
        test: ArrayLike,
        *,
        costs: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        self.space = space
        if not valid:
            raise ValueError(
                "valid has no budget: give at least one,"
                " as valid={12: accuracies}"
            )
        self.budgets = tuple(sorted(valid))
        self._row = {arch: i for i, arch in enumerate(space)}
        # lists, one a seed: looking one number up in an array is slower
        columns = {
            budget: self._columns(f"valid[{budget}]", valid[budget])
            for budget in self.budgets
        }
        self._valid = {
            budget: dict(enumerate(seeds)) for budget, seeds in columns.items()
        }
        self._test = self._columns("test", test)
        self._costs = {
            name: self._columns(f"costs[{name!r}]", of)[0]
            for name, of in (costs or {}).items()
        }

    def settings(self) -> dict[str, Any]:
        """What tells this table from others: space and accuracies."""
        valid = {
            budget: np.array(list(seeds.values()))
            for budget, seeds in self._valid.items()
        }
        return {
            "space": described(self.space),
            "valid": described(valid),
            "test": described(np.array(self._test)),
        }

    def _columns(self, name: str, values: ArrayLike) -> list[list[float]]:
        array = np.asarray(values, dtype=np.float64)
        if array.ndim not in (1, 2) or len(array) != len(self._row):
            raise ValueError(
                f"{name} has shape {array.shape}; the space has"
                f" {len(self._row):,} architectures, and each needs a row"
            )
        columns: list[list[float]] = array.reshape(len(array), -1).T.tolist()
        return columns

    def valid(
        self, arch: Architecture, budget: int | None = None, seed: int = 0
    ) -> float:
        """Validation accuracy of one training.

        Parameters
        ----------
        arch : architecture
        budget : int, optional
            Epochs or iterations; the most there are, unless given.
        seed : int
            Which of the trainings.

        Raises
        ------
        KeyError
            If the architecture, the budget or the training is not in the table.
        """
        try:
            seeds = self._valid[self.budgets[-1] if budget is None else budget]
            return seeds[seed][self._row[arch]]
        except KeyError:
            raise self._missing(arch, budget, seed) from None

    def test(self, arch: Architecture) -> float:
        """Test accuracy after the full training, averaged over its seeds.

        For the end: no search may see it.
        """
        if arch not in self._row:
            raise self._missing(arch, None, 0)
        row = self._row[arch]
        return sum(column[row] for column in self._test) / len(self._test)

    def cost(self, arch: Architecture, name: str) -> float:
        """What an architecture costs.

        Raises
        ------
        KeyError
            If the architecture or the cost is not in the table; the message
            lists those that are.
        """
        if name not in self._costs:
            raise KeyError(
                f"no cost is called {name!r}; there are:"
                f" {', '.join(self._costs) or 'none'}"
            )
        if arch not in self._row:
            raise self._missing(arch, None, 0)
        return self._costs[name][self._row[arch]]

    @cached_property
    def best(self) -> Architecture:
        """The highest test accuracy's architecture: no search can know it."""
        return max(self._row, key=self.test)

    def _missing(
        self, arch: Architecture, budget: int | None, seed: int
    ) -> KeyError:
        if arch not in self._row:
            return KeyError(
                f"{arch} is not an architecture of this table, which has"
                f" {self.space}"
            )
        if budget is not None and budget not in self.budgets:
            return KeyError(
                f"no training has the budget {budget}; there are {self.budgets}"
            )
        seeds = len(self._valid[self.budgets[-1] if budget is None else budget])
        return KeyError(
            f"there is no seed {seed}; there are trainings from 0 to"
            f" {seeds - 1}"
        )
