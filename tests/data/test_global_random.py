# SPDX-License-Identifier: MIT
"""Global random numbers: who draws from them is seen, and they come back."""

import random

import numpy as np
import pytest
import torch

from metabook.data.global_random import (
    random_numbers_of,
    watched_random_numbers,
)

DRAWS = {
    "python": random.random,
    "numpy": lambda: np.random.rand(),  # noqa: NPY002
    "torch": lambda: torch.rand(()).item(),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_draw_is_seen_and_taken_back(name):
    draw = DRAWS[name]
    with watched_random_numbers() as moved:
        assert not moved()
        drawn = [draw(), draw()]
        assert moved()
    assert [draw(), draw()] == drawn


@pytest.mark.parametrize("name", DRAWS)
def test_they_come_back_after_an_error(name):
    draw = DRAWS[name]
    with watched_random_numbers():
        expected = draw()

    def fail():
        with watched_random_numbers():
            raise KeyError(draw())

    with pytest.raises(KeyError):
        fail()
    assert draw() == expected


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_decides_what_is_drawn_and_nothing_is_left(name):
    draw = DRAWS[name]

    def drawn(seed):
        with random_numbers_of(seed, torch.device("cpu")):
            return draw(), draw()

    with watched_random_numbers() as moved:
        first = drawn(3)
        draw()
        assert drawn(3) == first
        assert drawn(2**64 - 1) != first
    with watched_random_numbers() as moved:
        drawn(3)
        assert not moved()
