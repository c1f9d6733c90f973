# SPDX-License-Identifier: MIT
"""The embedded table: 625 small networks, every one of them trained. Taught in section 3.2 of the book."""

from metabook.nas.space import SearchSpace

__all__ = ["glyph_space"]

OPERATIONS = ("skip", "conv1", "conv3", "conv5", "sep5")


def glyph_space() -> SearchSpace:
    """Four blocks, each with one of five operations: `Conv4` with a choice in every block.

    ``metabook.candidates.glyph_network`` builds the network.

    Examples
    --------
    >>> len(glyph_space())
    625
    """
    return SearchSpace({f"block{i}": OPERATIONS for i in (1, 2, 3, 4)})
