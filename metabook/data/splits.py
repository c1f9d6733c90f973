# SPDX-License-Identifier: MIT
"""Which classes, or which examples of each class, go into which part. Taught in
section 2.1 of the book.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metabook.data.random import check_seed, random_bits

__all__ = ["classes_of_parts", "rows_of_parts"]

Integers = NDArray[np.int64]


def classes_of_parts(
    groups: NDArray[np.integer], fractions: Sequence[float], seed: int
) -> list[Integers]:
    """The classes of each part, ascending; a group of classes stays together.

    Parameters
    ----------
    groups : array of int, (classes,)
        The group of each class.
    fractions : sequence of float
        Share of the groups that each part gets.
    seed : int

    Examples
    --------
    >>> [len(part) for part in classes_of_parts(np.arange(10), (0.7, 0.3), 0)]
    [7, 3]
    """
    _check(fractions)
    kinds = np.unique(groups)
    bits = random_bits(check_seed(seed), np.arange(len(kinds)))
    shuffled = kinds[np.argsort(bits)]
    cuts = np.round(np.cumsum([0.0, *fractions]) * len(kinds)).astype(int)
    parts = [shuffled[a:b] for a, b in itertools.pairwise(cuts)]
    if min(map(len, parts)) == 0:
        raise ValueError(
            f"{len(kinds)} groups of classes are too few for fractions"
            f" {tuple(fractions)}: a part is empty"
        )
    return [np.flatnonzero(np.isin(groups, part)) for part in parts]


def rows_of_parts(
    counts: Integers,
    names: Sequence[str],
    fractions: Sequence[float],
    seed: int,
) -> list[tuple[Integers, Integers]]:
    """The rows of each part, ascending, and how many of each class it has.

    Parameters
    ----------
    counts : array of int, (classes,)
        Examples of each class; the rows are sorted by class.
    names : sequence of str
        Of the classes, for the error.
    fractions : sequence of float
        Share of the examples of every class that each part gets.
    seed : int

    Examples
    --------
    >>> for rows, counts in rows_of_parts(
    ...     np.array([4, 8]), "ab", (0.75, 0.25), seed=0
    ... ):
    ...     print(len(rows), counts)
    9 [3 6]
    3 [1 2]
    """
    _check(fractions)
    shares = np.cumsum([0.0, *fractions])
    cuts = np.round(shares[:, None] * counts).astype(np.int64)
    sizes = np.diff(cuts, axis=0)  # (parts, classes)
    if not sizes.all():
        small = np.flatnonzero(sizes.min(axis=0) == 0)
        raise ValueError(
            f"class {names[small[0]]!r} has {counts[small[0]]} examples, too"
            f" few for fractions {tuple(fractions)}: a part would have none of"
            f" them. images.at_least({counts[small].max() + 1}) leaves such"
            " classes out"
        )
    of = np.repeat(np.arange(len(counts)), counts)  # the class of each row
    keys = random_bits(check_seed(seed), np.arange(len(of)))
    shuffled = np.lexsort((keys, of))  # within the classes
    place = np.arange(len(of)) - (np.cumsum(counts) - counts)[of]
    return [
        (np.sort(shuffled[(low[of] <= place) & (place < high[of])]), size)
        for low, high, size in zip(cuts[:-1], cuts[1:], sizes, strict=True)
    ]


def _check(fractions: Sequence[float]) -> None:
    if not fractions or min(fractions) <= 0 or sum(fractions) > 1 + 1e-9:
        raise ValueError(
            f"fractions {tuple(fractions)} must be positive and sum to at most"
            " 1"
        )
