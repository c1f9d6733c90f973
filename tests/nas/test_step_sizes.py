# SPDX-License-Identifier: MIT
"""What trains along half a cosine begins at the given step size, and would be
at zero after the last iteration.
"""

import math

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

import metabook as mb
from metabook.nas.candidates import TrainAndScore, glyph_network, glyph_tasks
from metabook.nas.supernet import Supernet, train_mixture, train_paths

FIRST = ("conv3", "conv3", "skip", "skip")


@pytest.fixture
def sizes():
    """The step sizes of all optimisers of the program, step by step."""
    seen = []
    handle = register_optimizer_step_pre_hook(
        lambda of, *_: seen.append(of.param_groups[0]["lr"])
    )
    yield seen
    handle.remove()


def cosine(lr, iterations):
    halves = (
        0.5 + 0.5 * math.cos(math.pi * i / iterations)
        for i in range(iterations)
    )
    return pytest.approx([lr * half for half in halves])


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_paths_of_a_supernet(sizes, iterations, monkeypatch):
    space = mb.nas.glyph_space()
    monkeypatch.setattr(space, "random", lambda rng: FIRST)
    train_paths(Supernet(space), glyph_tasks()[0], iterations, lr=0.01)
    assert sizes == cosine(0.01, iterations)


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_the_weights_of_a_mixture_and_not_its_shares(sizes, iterations):
    supernet = Supernet(mb.nas.glyph_space())
    tasks, held_out, _ = glyph_tasks()
    train_mixture(supernet, tasks, held_out, iterations, 0.01, alpha_lr=0.02)
    assert sizes[::2] == [0.02] * iterations
    assert sizes[1::2] == cosine(0.01, iterations)


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_candidates(sizes, iterations):
    tasks, valid, _ = glyph_tasks()
    TrainAndScore(
        glyph_network, tasks, valid, iterations=iterations, lr=0.01
    ).train(FIRST)
    assert sizes == cosine(0.01, iterations)


def test_shares_begin_even():
    shares = Supernet(mb.nas.glyph_space()).shares()
    for share in shares:
        assert torch.allclose(share, torch.full_like(share, 1 / len(share)))
