# SPDX-License-Identifier: MIT
"""What an inner loop cannot use is refused by name when it is made; the way out
that the error names is taken.
"""

import math

import pytest
import torch
from torch import nn

import metabook as mb

NET = nn.Sequential(nn.Flatten(), nn.Linear(784, 5))
LOOPS = [
    mb.MAML,
    mb.ANIL,
    mb.MetaSGD,
    mb.MAMLPlusPlus,
    mb.JointTraining,
    mb.Reptile,
    mb.ImplicitMAML,
]


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize(
    ("name", "refused", "accepted"),
    [
        ("inner_steps", 0, 1),
        ("inner_steps", -1, 1),
        ("inner_lr", -0.1, 0.1),
        ("inner_lr", math.inf, 0.1),
        ("inner_lr", math.nan, 0.1),
        ("threads", 0, 1),
    ],
)
def test_a_number_out_of_range_is_named(kind, name, refused, accepted):
    with pytest.raises(ValueError, match=rf"{name} is {refused}"):
        kind(NET, **{name: refused})
    kind(NET, **{name: accepted})


def test_a_pull_of_nothing_is_named():
    with pytest.raises(ValueError, match=r"lam is 0\.0; without a pull"):
        mb.ImplicitMAML(NET, lam=0.0)


def test_compiled_tasks_are_side_by_side():
    with pytest.raises(ValueError, match="leave vectorized=False out"):
        mb.MAML(NET, compiled=True, vectorized=False)
    assert mb.MAML(NET, compiled=True).execution.vectorized


@pytest.mark.parametrize("kind", LOOPS)
def test_the_way_of_computing_is_no_part_of_a_repr_and_the_step_is(kind):
    text = repr(kind(NET, inner_lr=0.125, inner_steps=3))
    assert "inner_lr=0.125" in text and "inner_steps=3" in text
    assert text == repr(kind(NET, inner_lr=0.125, inner_steps=3, threads=2))


def test_a_missing_compiler_is_said_with_the_way_out(tasks, monkeypatch):
    def no_compiler(*inputs):
        raise OSError("no g++")

    monkeypatch.setattr(torch, "compile", lambda program: no_compiler)
    episode = tasks.sample(2)
    learner = mb.MAML(NET, compiled=True)
    with pytest.raises(RuntimeError, match=r"no g\+\+.*use compiled=False"):
        learner.backward(episode)
    mb.MAML(NET, compiled=False).backward(episode)
