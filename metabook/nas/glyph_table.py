# SPDX-License-Identifier: MIT
"""The embedded table: 625 small networks, every one of them trained.

Taught in section 3.2 of the book.
"""

import json
from functools import cache
from importlib.resources import files
from typing import Any

from metabook.nas.space import SearchSpace
from metabook.nas.tables import Table

__all__ = ["glyph_measurements", "glyph_space", "glyph_table"]

OPERATIONS = ("skip", "conv1", "conv3", "conv5", "sep5")


def glyph_space() -> SearchSpace:
    """Four blocks, each with one of five operations: `Conv4` with choices.

    `metabook.nas.candidates.glyph_network` builds the network.

    Examples
    --------
    >>> len(glyph_space())
    625
    """
    return SearchSpace({f"block{i}": OPERATIONS for i in (1, 2, 3, 4)})


@cache
def glyph_measurements() -> dict[str, Any]:
    """All that the table was made from: the command, its protocol, and every
    number, a column for each measure with a row for each network.

    Examples
    --------
    >>> glyph_measurements()["command"]
    'python benchmarks/sections/glyph_table.py'
    """
    text = (files("metabook.nas") / "glyph_table.json").read_text("utf8")
    measurements: dict[str, Any] = json.loads(text)
    return measurements


@cache
def glyph_table() -> Table:
    """Every network of `glyph_space` as an embedding for few-shot learning,
    trained from three seeds.

    ``table.valid`` is the accuracy in percent on validation tasks after 50 or
    200 iterations, ``table.test`` that on test tasks after 200; the three parts
    have no character in common. The tasks are 20-way 1-shot, on glyphs of 16 x
    16 pixels. ``table.cost(arch, name)`` knows ``"parameters"``,
    ``"multiply_adds"`` (an image) and ``"seconds_50"`` and ``"seconds_200"``
    (of one training on one thread of the machine that made the table).

    Returns
    -------
    Table
        Made by ``python benchmarks/sections/glyph_table.py``, from trainings by
        `metabook.nas.candidates.TrainAndScore`.

    Examples
    --------
    >>> table = glyph_table()
    >>> len(table.space), table.budgets
    (625, (50, 200))
    >>> table.cost(("conv3", "conv3", "conv3", "conv3"), "parameters")
    7184.0
    """
    result = glyph_measurements()
    columns = result["table"]
    valid = {b: columns[f"valid_{b}"] for b in result["budgets"]}
    costs = {
        name: column
        for name, column in columns.items()
        if not name.startswith(("valid", "test"))
    }
    return Table(glyph_space(), valid, columns["test"], costs=costs)
