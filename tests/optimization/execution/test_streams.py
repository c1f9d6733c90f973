# SPDX-License-Identifier: MIT
"""Each task draws from a stream of its own: threads, the other tasks of a batch
and resuming change nothing.
"""

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gradients import outer_gradient, task_batch
from torch import nn

import metabook as mb
from metabook.optimization.execution.streams import Streams


@pytest.fixture
def two_threads(monkeypatch):
    """Two tasks at once, and one core for each operation."""
    set_num_threads = torch.set_num_threads
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: set_num_threads(1))


class Sequence(nn.Module):
    """Reads an example of 2 numbers as a sequence of 2."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(4, 3)

    def forward(self, x):
        z = x[:, :, None].expand(-1, -1, 4)
        z = self.layer(z, z, z) if self.attends() else self.layer(z)
        return self.head(z[0][:, -1])

    def attends(self):
        return isinstance(self.layer, nn.MultiheadAttention)


class Apply(nn.Module):
    """A function, in training mode."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x) if self.training else x


class Switch(nn.Module):
    """Draws after a while."""

    def __init__(self):
        super().__init__()
        self.on = False

    def forward(self, x):
        return F.dropout(x, 0.5) if self.on else x


def around(layer):
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), layer, nn.Linear(8, 3))


DRAWS = {
    "dropout": lambda: around(nn.Dropout(0.5)),
    "feature dropout": lambda: around(nn.FeatureAlphaDropout(0.5)),
    "function": lambda: around(Apply(lambda x: F.dropout(x, 0.5))),
    "noise": lambda: around(Apply(lambda x: x + torch.randn_like(x))),
    "numbers": lambda: around(Apply(lambda x: x * torch.rand(()))),
    "LSTM": lambda: Sequence(
        nn.LSTM(4, 4, num_layers=2, dropout=0.5, batch_first=True)
    ),
    "attention": lambda: Sequence(
        nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)
    ),
}
OF_OTHERS = {
    "Python": lambda: around(Apply(lambda x: x * random.random())),
    "NumPy": lambda: around(Apply(lambda x: x * np.random.rand())),  # noqa: NPY002
}


def network(name):
    torch.manual_seed(0)
    return (DRAWS | OF_OTHERS)[name]()


def batch(tasks=4):
    return task_batch(tasks=tasks).to(torch.float32)


def seeded():
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002


RELATIVES = [
    mb.MAML,
    mb.ANIL,
    mb.MetaSGD,
    mb.MAMLPlusPlus,
    mb.Reptile,
    mb.ImplicitMAML,
    mb.JointTraining,
]


@pytest.mark.parametrize("name", DRAWS | OF_OTHERS)
def test_a_seed_gives_one_loss_whatever_the_threads(name, two_threads):
    net, found = network(name), []
    for threads in (1, None, None):
        learner = mb.MAML(copy.deepcopy(net), 0.5, threads=threads)
        for _ in range(2):
            seeded()
            found.append(outer_gradient(learner, batch()))
    assert all(torch.equal(g, found[0]) for g in found)
    assert not torch.equal(outer_gradient(learner, batch()), found[0])


@pytest.mark.parametrize("relative", RELATIVES)
def test_so_does_the_whole_family(relative, two_threads):
    net, found = network("LSTM"), []
    for threads in (1, None):
        learner = relative(copy.deepcopy(net), 0.1, 2, threads=threads)
        seeded()
        found.append(outer_gradient(learner, batch()))
        state = torch.get_rng_state()
    assert torch.equal(*found)
    seeded()
    torch.randint(2**63 - 1, ())
    assert torch.equal(state, torch.get_rng_state()), "one number was drawn"


@pytest.mark.parametrize("name", DRAWS)
def test_threads_that_are_asked_for_are_refused_and_leave_no_trace(
    name, two_threads
):
    learner = mb.MAML(network(name), 0.1, threads=2)
    for p in learner.parameters():
        p.grad = torch.ones_like(p)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"draws random.*threads=1, or leave"):
        learner.backward(batch())
    assert all((p.grad == 1).all() for p in learner.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    for threads in (1, None):  # the ways out
        mb.MAML(network(name), 0.1, threads=threads).backward(batch())


def test_dropout_that_does_not_draw_does_not_matter(two_threads):
    for learner in (
        mb.MAML(network("dropout"), 0.1, threads=2).eval(),
        mb.MAML(around(nn.Dropout(0.0)), 0.1, threads=2),
        mb.MAML(around(nn.LayerNorm(8)), 0.1, threads=2),
    ):
        state = torch.get_rng_state()
        learner.backward(batch())
        assert learner.execution.pool.pool is not None
        assert torch.equal(torch.get_rng_state(), state)


def test_gradients_that_were_there_are_added_to_once(two_threads):
    learner = mb.MAML(network("dropout"), 0.1)
    seeded()
    expected = outer_gradient(learner, batch()) + 1
    learner = mb.MAML(network("dropout"), 0.1)
    for p in learner.parameters():
        p.grad = torch.ones_like(p)
    seeded()
    learner.backward(batch())
    got = torch.cat([p.grad.flatten() for p in learner.parameters()])
    assert torch.allclose(got, expected, atol=1e-6)


def test_a_model_that_begins_to_draw_is_noticed(two_threads):
    found = []
    for threads in (1, None):
        torch.manual_seed(0)
        learner = mb.MAML(around(Switch()), 0.1, threads=threads)
        learner.backward(batch())
        learner.model[2].on = True
        seeded()
        found.append(outer_gradient(learner, batch()))
    assert torch.equal(*found)


class Notes(nn.Module):
    """Writes down what it draws: so many numbers as the first example says."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = nn.Linear(1, 1), []

    def forward(self, x):
        numbers = torch.rand(int(x[0, 0]))
        self.seen.append(numbers[0].item())
        return self.layer(x) + numbers[0]


def drawn(numbers, **options):
    """What each task of a batch draws: in the inner loop, and for queries."""
    torch.manual_seed(0)
    x = torch.tensor(numbers).float().view(-1, 1, 1).expand(-1, 2, 1)
    learner = mb.MAML(
        Notes(), 0.01, loss_fn=F.mse_loss, first_order=True, **options
    )
    seeded()
    learner.backward(mb.Episode(x, x, x, x))
    seen = learner.model.seen
    return list(zip(seen[::2], seen[1::2], strict=True))


def test_a_task_draws_the_same_whatever_the_others_do():
    alone = drawn([4, 4, 4])
    assert len({n for pair in alone for n in pair}) == 6, "and each another"
    assert drawn([4, 4]) == alone[:2]
    assert drawn([9, 1, 4])[2] == alone[2]
    assert drawn([4, 4, 4, 4, 4])[:3] == alone


def test_loss_is_what_backward_descends_when_it_draws_as_well():
    learner, episode = mb.MAML(network("dropout"), 0.1, 2), batch()
    seeded()
    loss = learner.loss(episode)
    after = torch.get_rng_state()
    gradient = torch.autograd.grad(loss, list(learner.parameters()))
    seeded()
    expected = outer_gradient(learner, episode)
    assert torch.equal(after, torch.get_rng_state())
    got = torch.cat([g.flatten() for g in gradient])
    assert torch.allclose(got, expected, atol=1e-6)


def test_a_saved_state_repeats_what_followed():
    learner, episode = mb.MAML(network("LSTM"), 0.1), batch()
    seeded()
    learner.backward(episode)
    state = torch.get_rng_state()
    third = [outer_gradient(learner, episode) for _ in range(2)]
    torch.rand(7)
    torch.set_rng_state(state)
    again = mb.MAML(copy.deepcopy(learner.model), 0.1)
    assert all(torch.equal(outer_gradient(again, episode), g) for g in third)


def test_after_an_error_the_callers_numbers_go_on():
    streams, state = Streams(torch.device("cpu")), torch.get_rng_state()
    with pytest.raises(OverflowError), streams, streams.of_task(3):
        raise OverflowError
    assert torch.equal(torch.get_rng_state(), state)


def test_two_batches_draw_differently():
    learner, episode = mb.MAML(network("dropout"), 0.1), batch(1)
    one, two = (outer_gradient(learner, episode) for _ in range(2))
    assert not torch.equal(one, two)
