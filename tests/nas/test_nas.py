# SPDX-License-Identifier: MIT
"""The search loop, and zero-cost proxies."""

import copy
import inspect
import math
import pickle
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from searches import FAST, evaluate, same
from test_strategies import SPACE, STRATEGIES
from torch import nn

import metabook as mb
from metabook.nas import loop, proxies


@pytest.fixture(params=FAST)
def make(request):
    return lambda seed=0: STRATEGIES[request.param](SPACE, seed)


# --- the loop ---


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_spends_the_same_budget(name):
    calls = []
    result = mb.nas.search(
        STRATEGIES[name](SPACE, 0),
        lambda arch: calls.append(arch) or evaluate(arch),
        budget=48,
    )
    assert len(result.history) == 48
    assert len(calls) + sum(trial.repeated for trial in result.history) == 48
    assert result.score == max(map(evaluate, calls)) == evaluate(result.best)


def test_a_repeated_architecture_counts_is_marked_and_is_answered_from_memory():
    noise = random.Random(0)
    # b changes nothing
    space = mb.nas.SearchSpace(
        {"a": [0, 1], "b": [0, 1]}, canonical=lambda arch: (arch[0], 0)
    )
    result = mb.nas.search(
        mb.nas.RandomSearch(space), lambda arch: noise.random(), budget=20
    )
    first = {}
    for trial in result.history:
        key = space.canonical(trial.architecture)
        assert trial.repeated == (key in first)
        assert trial.score == first.setdefault(key, trial.score)
    assert len(first) == 2


def test_the_best_is_the_first_with_the_highest_score():
    result = mb.nas.SearchResult(
        [mb.nas.Trial((i,), s) for i, s in enumerate([1.0, 3.0, None, 3.0])]
    )
    assert (result.best, result.score) == ((1,), 3.0)
    assert (
        repr(result)
        == "SearchResult(4 trials, 0 repeated, 1 failed; best (1,), score"
        " 3.0000)"
    )


def test_no_test_data_can_enter_a_search():
    assert not [
        name
        for name in inspect.signature(mb.nas.search).parameters
        if "test" in name
    ]

    class Canary:
        def __getitem__(self, index):
            raise AssertionError("the search looked at the test set")

        __iter__ = __len__ = __getitem__

    class Data:
        valid, test = list(range(10)), Canary()

    data = Data()
    result = mb.nas.search(
        mb.nas.RandomSearch(SPACE),
        lambda arch: arch[0] + sum(data.valid),
        budget=10,
    )
    assert all(trial.error is None for trial in result.history)
    with pytest.raises(AssertionError, match="looked at the test set"):
        data.test[0]


class _Slow(ThreadPoolExecutor):
    """Workers that take their time at random: results come in any order."""

    def submit(self, fn, /, *args):
        delay = random.random() / 100
        return super().submit(lambda: (time.sleep(delay), fn(*args))[1])


def test_a_run_depends_on_how_many_are_in_flight_and_not_on_the_workers(make):
    def history(in_flight, workers):
        if not workers:
            return mb.nas.search(
                make(), evaluate, budget=40, in_flight=in_flight
            ).history
        with _Slow(workers) as executor:
            return mb.nas.search(
                make(), evaluate, 40, executor=executor, in_flight=in_flight
            ).history

    assert history(4, 0) == history(4, 1) == history(4, 5)
    assert history(1, 0) == history(1, 3)


def test_results_that_depend_on_scores_differ_with_the_number_in_flight():
    strategies = [STRATEGIES["evolution"](SPACE, 0) for _ in range(2)]
    one, four = (
        mb.nas.search(s, evaluate, 40, in_flight=k).history
        for s, k in zip(strategies, (1, 4), strict=True)
    )
    assert one != four


def test_no_more_than_in_flight_wait_and_no_network_is_evaluated_twice():
    class Watching(mb.nas.RandomSearch):
        waiting = most = 0

        def ask(self):
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            return super().ask()

        def tell(self, arch, score):
            self.waiting -= 1

    calls, lock = [], threading.Lock()

    def noted(arch):
        with lock:
            calls.append(arch)
        return 1.0

    strategy = Watching(mb.nas.SearchSpace({"a": [0, 1, 2]}))
    with _Slow(4) as executor:
        result = mb.nas.search(
            strategy, noted, budget=30, executor=executor, in_flight=4
        )
    assert strategy.most == 4
    # no proposal is left over: the budget was known
    assert strategy.waiting == 0
    assert sorted(calls) == [(0,), (1,), (2,)]
    assert sum(not trial.repeated for trial in result.history) == 3


def test_what_the_workers_run_can_be_pickled():
    assert pickle.loads(pickle.dumps(partial(loop._attempt, evaluate)))(
        (3, "a", None)
    ) == (3.4, None)


def test_failures_are_recorded_and_survived(make):
    def fragile(arch):
        if arch[0] == 0:
            raise MemoryError("too large")
        return math.nan if arch[0] == 1 else evaluate(arch)

    with pytest.warns(
        RuntimeWarning, match="failed .*recorded, and the search goes on"
    ) as caught:
        result = mb.nas.search(make(), fragile, budget=50)
    assert len(caught) == 1  # the first one only
    assert len(result.history) == 50
    for trial in result.history:
        expected = {
            0: "MemoryError: too large",
            1: "evaluate returned nan",
        }.get(trial.architecture[0])
        assert trial.error == expected
        assert (trial.score is None) == (expected is not None)
    assert result.best[0] >= 2


def test_if_everything_fails_the_first_reason_is_told():
    with pytest.warns(RuntimeWarning):
        result = mb.nas.search(
            mb.nas.RandomSearch(SPACE), lambda arch: arch.nothing, budget=5
        )
    assert repr(result).endswith("5 failed)")
    with pytest.raises(
        ValueError,
        match="no evaluation succeeded.*AttributeError: 'tuple' object",
    ):
        result.best


def test_a_broken_pool_is_not_taken_for_a_bad_architecture():
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        mb.nas.search(
            mb.nas.RandomSearch(SPACE), evaluate, budget=5, executor=executor
        )


def test_time_ends_a_search():
    result = mb.nas.search(
        mb.nas.RandomSearch(SPACE),
        lambda arch: time.sleep(0.01) or 1.0,
        10**6,
        seconds=0.1,
        in_flight=3,
    )
    assert 3 <= len(result.history) < 30
    assert result.seconds >= 0.1


@pytest.mark.parametrize(("budget", "in_flight"), [(0, 1), (10, 0)])
def test_a_search_for_nothing_is_refused(budget, in_flight):
    with pytest.raises(ValueError, match="must be at least 1"):
        mb.nas.search(
            mb.nas.RandomSearch(SPACE), evaluate, budget, in_flight=in_flight
        )


def test_what_cannot_be_called_is_not_tried_a_thousand_times():
    with pytest.raises(
        TypeError, match="evaluate is 0.5; it must be a function"
    ):
        mb.nas.search(mb.nas.RandomSearch(SPACE), 0.5, budget=1000)


# --- proxies ---


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Dropout(0.0),
        nn.Linear(6, 3),
        nn.ReLU(),
    )


X = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


def test_proxies_leave_the_network_as_it_was():
    model = network().eval()
    state, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    (
        proxies.parameter_count(model),
        proxies.gradient_norm(model, X, Y),
        proxies.naswot(model, X),
    )
    assert same(dict(state), dict(model.state_dict()))
    assert torch.equal(rng, torch.get_rng_state())
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_frozen_weights_do_not_count():
    model = network()
    assert proxies.parameter_count(model) == 4 * 6 + 6 + 12 + 6 * 3 + 3
    model[0].weight.requires_grad_(False)
    assert proxies.parameter_count(model) == 6 + 12 + 6 * 3 + 3


def test_the_gradient_norm_is_that_of_all_weights_together():
    model = network()
    F.cross_entropy(model(X), Y).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    assert proxies.gradient_norm(network(), X, Y) == pytest.approx(
        float(expected), rel=1e-6
    )


def test_naswot_counts_the_rectifiers_that_agree():
    model = network()
    hidden = model[:3](X)
    codes = torch.cat([hidden > 0, model[3:](hidden) > 0], dim=1).int().tolist()
    kernel = [
        [sum(a == b for a, b in zip(one, two, strict=True)) for two in codes]
        for one in codes
    ]
    expected = np.linalg.slogdet(np.array(kernel, dtype=float))[1]
    assert proxies.naswot(network(), X) == pytest.approx(expected, rel=1e-6)


def test_naswot_of_two_equal_examples_is_minus_infinity():
    assert proxies.naswot(network(), X[[0, 1, 0]]) == -math.inf


def test_naswot_says_that_it_sees_modules_only():
    with pytest.raises(ValueError, match=r"no nn\.ReLU module"):
        proxies.naswot(nn.Linear(4, 2), X)


@pytest.mark.parametrize("name", mb.nas.__all__)
def test_every_public_name_of_the_search_is_documented(name):
    doc = inspect.getdoc(getattr(mb.nas, name))
    assert doc
    if name not in (
        "Architecture",
        "SearchResult",
        "Strategy",
        "Trial",
        "candidates",
        "nasbench201",
        "proxies",
        "supernet",
    ):
        assert "Examples" in doc
