# SPDX-License-Identifier: MIT
"""Tables of networks that somebody has trained already: search becomes a matter
of milliseconds, with a known best.

NAS-Bench-201: Dong & Yang, 2020, https://arxiv.org/abs/2001.00326. Taught in
section 3.2 of the book.
"""

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from metabook.data.settings import described
from metabook.nas.space import Architecture, SearchSpace

__all__ = ["Table", "load_nasbench201"]


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


def load_nasbench201(
    path: str | os.PathLike[str], dataset: str = "cifar10"
) -> Table:
    """NAS-Bench-201: 15,625 cells, each an operation on six edges between four
    nodes, trained on three data sets.

    ``table.valid`` is the validation accuracy in percent after 12 epochs, which
    the searches of the paper use (on CIFAR-10 of a training on half of the
    training set); ``table.test`` is the test accuracy after 200 epochs.

    Parameters
    ----------
    path : path
        The compact file, ``nasbench201_compact.npz``.
    dataset : {"cifar10", "cifar100", "imagenet16-120"}

    Returns
    -------
    Table
        ``table.space.canonical`` knows which cells are the same network: 5,875
        are different. (The authors count 6,466: they keep a sum apart from the
        same sum with a term that is zero.)

    Raises
    ------
    ValueError
        If the file lacks the data set, or is another file.

    References
    ----------
    Dong & Yang, 2020, https://arxiv.org/abs/2001.00326

    Examples
    --------
    >>> table = load_nasbench201("nasbench201_compact.npz")  # doctest: +SKIP
    >>> table.test(table.best)  # doctest: +SKIP
    94.37333679199219
    """
    with np.load(Path(path), allow_pickle=False) as file:
        needed = {"ops", "edges", "arch", "datasets", "val12", "test200"}
        if missing := needed - set(file.files):
            raise ValueError(
                f"{path} lacks {', '.join(sorted(missing))}; it is not the"
                " compact NAS-Bench-201"
            )
        ops, edges = file["ops"].tolist(), file["edges"].tolist()
        names = file["datasets"].tolist()
        if dataset not in names:
            raise ValueError(
                f"dataset is {dataset!r}; choose one of {', '.join(names)}"
            )
        order, valid, test = file["arch"], file["val12"], file["test200"]
    space = SearchSpace(
        dict.fromkeys(edges, ops), canonical=_Cells(edges, ops).canonical
    )
    counted = np.indices((len(ops),) * len(edges)).reshape(len(edges), -1).T
    if not np.array_equal(order, counted):
        raise ValueError(
            f"{path} lists the cells in another order than 0, 1, 2, ... in base"
            f" {len(ops)}"
        )
    column = names.index(dataset)
    return Table(space, {12: valid[:, column]}, test[:, column])


class _Cells:
    """The cells whose output has the same expression are the same network."""

    def __init__(self, edges: list[str], ops: list[str]) -> None:
        ends = [edge.split("<-") for edge in edges]
        self.edges = [(int(to), int(source)) for to, source in ends]
        self.ops = ops

    def settings(self) -> dict[str, Any]:
        """What tells these cells from others."""
        return {"edges": self.edges, "ops": self.ops}

    def canonical(self, arch: Architecture) -> Architecture:
        """The first cell that is the same network."""
        return self._first[arch]

    @cached_property
    def _first(self) -> dict[Architecture, Architecture]:
        first: dict[str, Architecture] = {}
        cells: Iterator[Architecture] = product(
            self.ops, repeat=len(self.edges)
        )
        return {
            arch: first.setdefault(self.expression(arch), arch)
            for arch in cells
        }

    def expression(self, arch: Architecture) -> str:
        """The output as a sum of operations on sums, ..., on the input x.

        A convolution that enters twice has the same weights in both places:
        f(x) + f(x) is not f(x) + g(x). Those that do get a letter, and of the
        ways to give out the letters the first in the alphabet counts.
        """
        shared = [
            e
            for e, op in enumerate(arch)
            if "conv" in str(op) and self._write(arch, {e: "!"}).count("!") > 1
        ]
        letters = "abcdef"[: len(shared)]
        return min(
            self._write(arch, dict(zip(shared, order, strict=True)))
            for order in permutations(letters)
        )

    def _write(self, arch: Architecture, letter: dict[int, str]) -> str:
        terms: dict[int, list[str]] = {0: ["x"]}  # of the sum at each node
        for e, op in enumerate(arch):
            to, source = self.edges[e]
            into = terms.setdefault(to, [])
            inputs = terms[source]
            if op == "skip_connect":
                into += inputs
            # of nothing, a convolution leaves its shift
            elif op != "none" and (inputs or "conv" in str(op)):
                total = "+".join(sorted(inputs))
                into.append(f"{op}{letter.get(e, '')}({total})")
        return "+".join(sorted(terms[max(terms)]))
