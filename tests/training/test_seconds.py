# SPDX-License-Identifier: MIT
"""The time that a history and a search report, by a clock that stands still
between what is done.
"""

import time

import pytest
import torch.nn.functional as F

import metabook as mb


class Clock:
    now = 0.0

    def __call__(self):
        return self.now

    def tasks(self, seconds):
        """Tasks that take so long to draw."""
        clock = self

        class Slow(mb.Sinusoids):
            def sample(self, tasks, start=0):
                clock.now += seconds
                return super().sample(tasks, start)

        return Slow(shot=5)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("metabook.training.train.perf_counter", clock)
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def waver():
    mlp = mb.MLP(1, 1, hidden=(4,))
    return mb.MAML(mlp, inner_lr=0.01, loss_fn=F.mse_loss)


def test_training_counts_its_iterations_and_not_what_the_caller_does(clock):
    def plot(*_):
        clock.now += 1000

    history = mb.train(waver(), clock.tasks(3), 5, 2, on_iteration=plot)
    assert history.seconds == 5 * 3


def test_training_counts_validations(clock):
    history = mb.train(
        waver(), clock.tasks(3), 5, 2, valid=clock.tasks(100), valid_every=2,
        valid_episodes=1,
    )  # fmt: skip
    assert len(history.validations) == 3
    assert history.seconds == 5 * 3 + 3 * 100


def test_the_parts_of_a_resumed_training_add_up(clock, tmp_path):
    learner = waver()
    for iterations in (2, 3, 7, 7):
        clock.now += 1000
        history = mb.train(
            learner, clock.tasks(3), iterations, 2, checkpoint=tmp_path
        )
        assert history.seconds == iterations * 3
    assert "in 21 s" in repr(history)


def search(clock, budget, folder=None, **options):
    def evaluate(arch):
        clock.now += 3
        return arch[0]

    evaluate.settings = lambda: {}
    space = mb.nas.SearchSpace({"a": list(range(99))})
    strategy = mb.nas.LocalSearch(space)
    return mb.nas.search(
        strategy, evaluate, budget, checkpoint=folder, **options
    )


def test_the_parts_of_a_resumed_search_add_up(clock, tmp_path):
    for budget in (2, 3, 7, 7):
        clock.now += 1000
        assert search(clock, budget, tmp_path).seconds == budget * 3


@pytest.mark.parametrize(("limit", "told"), [(1, 1), (3, 1), (4, 2), (21, 7)])
def test_a_search_proposes_nothing_after_its_seconds(clock, limit, told):
    assert len(search(clock, 50, seconds=limit).history) == told


def test_the_seconds_of_a_search_include_those_before_it_was_resumed(
    clock, tmp_path
):
    search(clock, 4, tmp_path)
    assert len(search(clock, 50, tmp_path, seconds=14).history) == 5
    assert len(search(clock, 50, tmp_path, seconds=14).history) == 5
    # the way out
    assert len(search(clock, 50, tmp_path, seconds=18).history) == 6
