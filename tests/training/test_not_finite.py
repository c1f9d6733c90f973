# SPDX-License-Identifier: MIT
"""A gradient that is not finite stops a training before it can do harm."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import metabook as mb

WAVES = mb.Sinusoids(shot=5)


class Overflows(mb.MAML):
    """Its loss is finite; one number of a gradient is not, from some batch
    on.
    """

    _parameter, _value, _after = "", 0.0, 0  # no settings

    def backward(self, episode):
        loss = super().backward(episode)
        self._after -= 1
        if self._after < 0:
            grad = dict(self.named_parameters())[self._parameter].grad
            grad.view(-1)[-1] = self._value
        return loss


def overflows(parameter, value, after=0):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    learner = Overflows(net, inner_lr=0.01, loss_fn=F.mse_loss)
    learner._parameter, learner._value = parameter, value
    learner._after = after
    return learner


NAMES = [name for name, _ in overflows("", 0.0).named_parameters()]


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("name", NAMES)
def test_the_parameter_is_named_and_nothing_has_moved(name, value, clip):
    learner = overflows(name, value)
    before = copy.deepcopy(learner.state_dict())
    optimizer = torch.optim.Adam(learner.parameters())
    with pytest.raises(
        FloatingPointError,
        match=rf"gradient of {name} is not finite at iteration 1;.*step size",
    ):
        mb.train(learner, WAVES, 3, 2, optimizer=optimizer, clip=clip)
    assert not optimizer.state, "no step was taken"
    after = learner.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("alone", [False, True])
def test_what_was_done_before_it_is_kept_and_goes_on(tmp_path, alone):
    """Also of tasks that come one by one."""

    class Tasks(mb.Sinusoids):
        def sample(self, n, start=0):
            episode = super().sample(n, start)
            return list(episode.tasks()) if alone else episode

    calls = 4 if alone else 2  # two iterations of two tasks
    straight = overflows(NAMES[0], math.inf, after=99)
    mb.train(straight, Tasks(), 4, 2)
    learner = overflows(NAMES[0], math.inf, after=calls)
    with pytest.raises(FloatingPointError, match="at iteration 3"):
        mb.train(
            learner, Tasks(), 4, 2, checkpoint=tmp_path, checkpoint_every=1
        )
    learner._after = 99  # the cure
    mb.train(learner, Tasks(), 4, 2, checkpoint=tmp_path)
    for a, b in zip(straight.parameters(), learner.parameters(), strict=True):
        assert torch.equal(a, b)
