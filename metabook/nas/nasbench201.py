# SPDX-License-Identifier: MIT
"""The cells of NAS-Bench-201: what may be chosen, which of them are the same
network, and what the benchmark calls them.

A cell sums up at each of four nodes what comes over the edges from the nodes
before; node 0 is its input and node 3 its output. Dong & Yang, 2020,
https://arxiv.org/abs/2001.00326. Taught in section 3.2 of the book.
"""

import operator
import re
from functools import cache
from itertools import permutations, product
from random import Random

from metabook.nas.space import Architecture, SearchSpace

__all__ = ["from_index", "from_string", "space", "to_index", "to_string"]

OPERATIONS = (
    "none",
    "skip_connect",
    "nor_conv_1x1",
    "nor_conv_3x3",
    "avg_pool_3x3",
)
EDGES = ("1<-0", "2<-0", "2<-1", "3<-0", "3<-1", "3<-2")
NODES = (1, 2, 3)  # each with an edge from every node before
AUTHORS_SEED = 88


def space() -> SearchSpace:
    """The 15,625 cells: one of five operations on each of six edges.

    Its ``canonical`` knows which cells are the same network: 5,875 are
    different. (The authors count 6,466: they keep a sum apart from the same sum
    with a term that is zero.)

    References
    ----------
    Dong & Yang, 2020, https://arxiv.org/abs/2001.00326

    Examples
    --------
    >>> len(space())
    15625
    >>> skip, conv = "skip_connect", "nor_conv_3x3"
    >>> space().canonical((skip, "none", "none", "none", conv, "none"))
    ('none', 'none', 'none', 'nor_conv_3x3', 'none', 'none')
    """
    return SearchSpace(dict.fromkeys(EDGES, OPERATIONS), canonical=_canonical)


def to_string(arch: Architecture) -> str:
    """A cell as the benchmark writes it: node by node, the operation on the
    edge from each node before.

    Raises
    ------
    ValueError
        If this is no cell.

    References
    ----------
    Dong & Yang, 2020, https://arxiv.org/abs/2001.00326

    Examples
    --------
    >>> to_string(("none", "none", "none", "none", "none", "skip_connect"))
    '|none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|'
    """
    _check(arch)
    operations = iter(arch)
    return "+".join(
        "".join(f"|{next(operations)}~{source}" for source in range(node)) + "|"
        for node in NODES
    )


def from_string(text: str) -> Architecture:
    """The cell that the benchmark writes so; the inverse of `to_string`.

    Raises
    ------
    ValueError
        If the string is not one that `to_string` writes.

    References
    ----------
    Dong & Yang, 2020, https://arxiv.org/abs/2001.00326

    Examples
    --------
    >>> from_string("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|")
    ('none', 'none', 'none', 'skip_connect', 'none', 'none')
    """
    arch = tuple(re.findall(r"\|([^|~]+)~", text))
    if arch not in space() or to_string(arch) != text:
        raise ValueError(
            f"{text!r} is no cell of NAS-Bench-201, which are written as"
            f" {to_string(('none',) * len(EDGES))!r}, with operations among"
            f" {', '.join(OPERATIONS)}"
        )
    return arch


def to_index(arch: Architecture) -> int:
    """The number of a cell in NAS-Bench-201 and NATS-Bench.

    Raises
    ------
    ValueError
        If this is no cell.

    References
    ----------
    Dong & Yang, 2020, https://arxiv.org/abs/2001.00326

    Examples
    --------
    >>> to_index(from_index(9930))
    9930
    """
    _check(arch)
    return _numbers()[arch]


def from_index(index: int) -> Architecture:
    """The cell with this number in NAS-Bench-201 and NATS-Bench.

    Raises
    ------
    ValueError
        If the number is not among 0 to 15,624.

    References
    ----------
    Dong & Yang, 2020, https://arxiv.org/abs/2001.00326

    Examples
    --------
    >>> from_index(1)[:3]
    ('nor_conv_3x3', 'nor_conv_3x3', 'avg_pool_3x3')
    """
    cells = _in_the_authors_order()
    if not 0 <= operator.index(index) < len(cells):
        raise ValueError(
            f"index is {index}; the cells of NAS-Bench-201 have the numbers 0"
            f" to {len(cells) - 1}"
        )
    return cells[index]


def _check(arch: Architecture) -> None:
    if arch not in space():
        raise ValueError(
            f"{arch!r} is no cell of NAS-Bench-201: a tuple with one operation"
            f" for each of the edges {', '.join(EDGES)}, among"
            f" {', '.join(OPERATIONS)}"
        )


@cache
def _in_the_authors_order() -> list[Architecture]:
    """The authors listed the cells as `space` does, and shuffled the list."""
    cells: list[Architecture] = list(product(OPERATIONS, repeat=len(EDGES)))
    Random(AUTHORS_SEED).shuffle(cells)
    return cells


@cache
def _numbers() -> dict[Architecture, int]:
    return {arch: i for i, arch in enumerate(_in_the_authors_order())}


def _canonical(arch: Architecture) -> Architecture:
    """The first cell that is the same network."""
    return _first_of_each()[arch]


@cache
def _first_of_each() -> dict[Architecture, Architecture]:
    first: dict[str, Architecture] = {}
    return {
        arch: first.setdefault(_expression(arch), arch)
        for arch in product(OPERATIONS, repeat=len(EDGES))
    }


def _expression(arch: Architecture) -> str:
    """The output as a sum of operations on sums, ..., on the input x.

    A convolution that enters twice has the same weights in both places: f(x) +
    f(x) is not f(x) + g(x). Those that do get a letter, and of the ways to give
    out the letters the first in the alphabet counts.
    """
    shared = [
        e
        for e, op in enumerate(arch)
        if "conv" in str(op) and _written(arch, {e: "!"}).count("!") > 1
    ]
    return min(
        _written(arch, dict(zip(shared, letters, strict=True)))
        for letters in permutations("abcdef"[: len(shared)])
    )


def _written(arch: Architecture, letter: dict[int, str]) -> str:
    terms: dict[int, list[str]] = {0: ["x"]}  # of the sum at each node
    for e, (edge, op) in enumerate(zip(EDGES, arch, strict=True)):
        node, source = map(int, edge.split("<-"))
        into, inputs = terms.setdefault(node, []), terms[source]
        if op == "skip_connect":
            into += inputs
        elif op != "none" and (inputs or "conv" in str(op)):
            # of nothing, a convolution leaves its shift
            into.append(f"{op}{letter.get(e, '')}({'+'.join(sorted(inputs))})")
    return "+".join(sorted(terms[NODES[-1]]))
