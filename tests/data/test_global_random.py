# SPDX-License-Identifier: MIT
"""The global random numbers are put back, whoever drew."""

import random

import numpy as np
import pytest
import torch

from metabook.data.global_random import (
    random_numbers_of,
    watched_random_numbers,
)

SOURCES = {
    "Python": random.random,
    "NumPy": np.random.rand,
    "torch": lambda: torch.rand(()).item(),
}


@pytest.mark.parametrize("source", SOURCES)
def test_who_draws_is_seen_and_leaves_no_trace(source):
    draw = SOURCES[source]
    with watched_random_numbers() as moved:
        assert not moved()
        first = draw()
        assert moved()
    assert draw() == first


@pytest.mark.parametrize("source", SOURCES)
def test_a_seed_gives_the_same_numbers_and_the_callers_come_back(source):
    draw = SOURCES[source]
    with watched_random_numbers():
        expected = draw()
    found = []
    for seed in (2**64 - 1, 2**64 - 1, 7):
        with random_numbers_of(seed):
            found.append(draw())
    assert found[0] == found[1] != found[2]
    with pytest.raises(OverflowError), random_numbers_of(7):
        raise OverflowError
    assert draw() == expected
