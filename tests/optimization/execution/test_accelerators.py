# SPDX-License-Identifier: MIT
"""Threads are for processors: weights on any other device never get them.

Torch's "meta" device stands for an accelerator; it computes nothing.
"""

import pytest
import torch
from torch import nn

import metabook as mb

RELATIVES = [
    mb.MAML,
    mb.ANIL,
    mb.MetaSGD,
    mb.MAMLPlusPlus,
    mb.Reptile,
    mb.ImplicitMAML,
    mb.JointTraining,
]


def computed_by(learner, episode, monkeypatch):
    """What a backward pass calls in the end."""
    seen = []

    def by_threads(*_):
        seen.append("threads")
        return 0.0

    def in_turn(part, way, tasks):
        seen.append("in turn")
        return 0.0

    monkeypatch.setattr(learner.execution.pool, "backward", by_threads)
    monkeypatch.setattr(learner, "add_gradient", in_turn)
    learner.execution.backward(learner, episode, 5)
    return seen


@pytest.mark.parametrize("threads", [None, 2])
@pytest.mark.parametrize("relative", RELATIVES)
def test_weights_elsewhere_are_computed_in_turn(
    relative, threads, tasks, monkeypatch
):
    torch.set_num_threads(2)  # conftest sets it back
    episode = tasks.sample(3)
    learner = relative(
        nn.Sequential(nn.Flatten(), nn.Linear(784, 5)),
        vectorized=False,
        threads=threads,
    )
    assert computed_by(learner, episode, monkeypatch) == ["threads"]
    away, there = learner.to("meta"), episode.to("meta")
    assert computed_by(away, there, monkeypatch) == ["in turn"] * 3


def test_one_tensor_elsewhere_is_enough(tasks, monkeypatch):
    learner = mb.MAML(
        nn.Sequential(nn.Flatten(), nn.Linear(784, 5)),
        vectorized=False,
        threads=2,
    )
    learner.model[1].bias = nn.Parameter(torch.zeros(5, device="meta"))
    seen = computed_by(learner, tasks.sample(2), monkeypatch)
    assert seen == ["in turn"] * 2


@pytest.mark.parametrize("device", ["mps", "xpu", "cuda", "cpu", "meta"])
def test_side_by_side_is_chosen_where_it_is_known_to_be_faster(device):
    """Tasks are on a device that this machine need not have."""

    class Elsewhere:
        def __init__(self):
            self.device = torch.device(device)

    net = mb.Conv4(out=5, width=4, norm="batch_stats")
    at_once = mb.MAML(net).execution.tasks_at_once(net, Elsewhere())
    assert at_once == (1 if device == "cpu" else 32)
    flat = mb.MLP(4, 5)
    assert mb.MAML(flat).execution.tasks_at_once(flat, Elsewhere()) == 32
