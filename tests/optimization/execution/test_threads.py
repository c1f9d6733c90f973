# SPDX-License-Identifier: MIT
"""A task a core: the same gradient, without copies of the weights."""

import copy
import multiprocessing
import pickle

import pytest
import torch
from conftest import small_conv
from gradients import outer_gradient, task_batch
from torch import nn

import metabook as mb
from metabook.optimization.execution.threads import copy_sharing_weights


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    "relative",
    [
        mb.MAML,
        mb.ANIL,
        mb.MetaSGD,
        mb.MAMLPlusPlus,
        mb.Reptile,
        mb.ImplicitMAML,
        mb.JointTraining,
    ],
)
def test_threads_give_the_gradient_of_the_plain_loop(
    relative, tasks, two_threads
):
    net, episode = small_conv(out=5).double(), tasks.sample(4)
    episode = episode.to(torch.float64)
    one, two = (
        relative(copy.deepcopy(net), 0.1, 2, vectorized=False, threads=n)
        for n in (1, 2)
    )
    a, b = outer_gradient(one, episode), outer_gradient(two, episode)
    assert torch.allclose(a, b, rtol=1e-10, atol=1e-14)
    assert two.execution.pool.pool is not None, "threads took part"
    assert one.execution.pool.pool is None
    assert torch.get_num_threads() == 2


def test_the_copies_lie_where_the_learner_lies():
    learner = mb.MAMLPlusPlus(small_conv(out=5), inner_steps=2)
    twin = copy_sharing_weights(learner)
    for own, shared in zip(
        learner.state_dict().values(), twin.state_dict().values(), strict=True
    ):
        assert own.data_ptr() == shared.data_ptr()
    for own, shared in zip(
        learner.parameters(), twin.parameters(), strict=True
    ):
        assert own is not shared
        assert own.stride() == shared.stride()


def test_what_is_changed_between_two_calls_counts_at_once(tasks, two_threads):
    learner = mb.MAML(small_conv(out=5).double(), 0.1, threads=2)
    episode = tasks.sample(3).to(torch.float64)
    learner.backward(episode)
    threads = learner.execution.pool.pool
    learner.inner_steps, learner.inner_lr = 3, 0.05
    with torch.no_grad():
        learner.model.head.weight.mul_(2)
    plain = mb.MAML(copy.deepcopy(learner.model), 0.05, 3, threads=1)
    a, b = outer_gradient(learner, episode), outer_gradient(plain, episode)
    assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)
    assert learner.execution.pool.pool is threads  # kept between calls


def test_a_learner_with_threads_is_copied_pickled_and_forked(
    tasks, two_threads
):
    learner = mb.MAML(small_conv(out=5), 0.1, threads=2)
    episode = tasks.sample(2)
    expected = outer_gradient(learner, episode)
    for other in (copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))):
        assert torch.equal(outer_gradient(other, episode), expected)
    if "fork" in multiprocessing.get_all_start_methods():
        with multiprocessing.get_context("fork").Pool(1) as pool:
            forked = pool.apply_async(outer_gradient, (learner, episode))
            assert torch.equal(forked.get(timeout=60), expected)


class Fails(nn.Module):
    """Raises on the third task that it sees."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = nn.Linear(2, 3), []

    def __deepcopy__(self, memo):
        other = Fails()
        other.layer, other.seen = copy.deepcopy(self.layer, memo), self.seen
        return other

    def forward(self, x):
        self.seen.append(1)
        if len(self.seen) > 4:
            raise OverflowError("enough")
        return self.layer(x)


def test_an_error_on_a_thread_reaches_the_caller_and_the_threads_go_on(
    two_threads,
):
    learner = mb.MAML(Fails(), 0.1, threads=2, vectorized=False)
    episode = mb.Episode(
        *(
            t.float() if t.is_floating_point() else t
            for t in _parts(task_batch(tasks=6))
        )
    )
    with pytest.raises(OverflowError, match="enough"):
        learner.backward(episode)
    assert torch.get_num_threads() == 2
    learner.model.seen.clear()
    learner.backward(mb.Episode(*(t[:1] for t in _parts(episode))))


def _parts(e):
    return e.support_x, e.support_y, e.query_x, e.query_y
