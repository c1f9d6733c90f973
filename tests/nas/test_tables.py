# SPDX-License-Identifier: MIT
"""Tables of trained networks."""

import numpy as np
import pytest

import metabook as mb


def test_a_table_knows_budgets_and_seeds():
    space = mb.nas.SearchSpace({"a": [0, 1], "b": [0, 1]})
    rng = np.random.default_rng(0)
    valid = {1: rng.random((4, 3)), 8: rng.random((4, 2))}
    test = rng.random((4, 5))
    table = mb.nas.Table(space, valid, test)
    for row, arch in enumerate(space):
        assert table.valid(arch) == valid[8][row, 0]
        assert table.valid(arch, budget=1, seed=2) == valid[1][row, 2]
        assert table.test(arch) == pytest.approx(test[row].mean())
    assert table.test(table.best) == pytest.approx(test.mean(axis=1).max())
    for message, options in (
        ("is not an architecture", {"arch": (2, 0)}),
        (r"there are \(1, 8\)", {"budget": 3}),
        ("from 0 to 1", {"seed": 2}),
        ("from 0 to 1", {"seed": -1}),
    ):
        with pytest.raises(KeyError, match=message):
            table.valid(**{"arch": (0, 0)} | options)
    with pytest.raises(KeyError, match="is not an architecture"):
        table.test((2, 0))


def test_a_table_with_a_row_missing_is_refused():
    space = mb.nas.SearchSpace({"a": [0, 1], "b": [0, 1]})
    with pytest.raises(
        ValueError,
        match=r"valid\[1\] has shape \(3,\); the space has 4 architectures",
    ):
        mb.nas.Table(space, {1: [0.1, 0.2, 0.3]}, [0.1] * 4)
    with pytest.raises(ValueError, match="no budget"):
        mb.nas.Table(space, {}, [0.1] * 4)
