# SPDX-License-Identifier: MIT
"""Neural architecture search: the outer loop learns an architecture, the inner
loop trains it.

A space says what may be built, a strategy proposes, ``evaluate(architecture)``
answers with a number, and `search` lets them talk. Taught in section 3.2 of the
book.

Examples
--------
>>> import metabook as mb
>>> space = mb.nas.SearchSpace({"width": [8, 16, 32], "depth": [1, 2, 3]})
>>> strategy = mb.nas.RegularizedEvolution(
...     space, population=4, sample=2, seed=0
... )
>>> result = mb.nas.search(strategy, lambda arch: arch[0] * arch[1], budget=30)
>>> result.best, result.score
((32, 3), 96.0)
"""

from metabook.nas import candidates, nasbench201, proxies, supernet
from metabook.nas.evolution import RegularizedEvolution
from metabook.nas.glyph_table import (
    glyph_measurements,
    glyph_space,
    glyph_table,
)
from metabook.nas.local_search import LocalSearch
from metabook.nas.loop import Strategy, search
from metabook.nas.nasbench201_file import load_nasbench201
from metabook.nas.random_search import RandomSearch
from metabook.nas.reinforce import Reinforce
from metabook.nas.space import Architecture, SearchSpace
from metabook.nas.tables import Table
from metabook.nas.trials import SearchResult, Trial

__all__ = [
    "Architecture",
    "LocalSearch",
    "RandomSearch",
    "RegularizedEvolution",
    "Reinforce",
    "SearchResult",
    "SearchSpace",
    "Strategy",
    "Table",
    "Trial",
    "candidates",
    "glyph_measurements",
    "glyph_space",
    "glyph_table",
    "load_nasbench201",
    "nasbench201",
    "proxies",
    "search",
    "supernet",
]
