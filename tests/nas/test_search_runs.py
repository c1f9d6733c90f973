# SPDX-License-Identifier: MIT
"""Searches that are kept in a folder."""

import itertools
import json
import math
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from processes import Child
from searches import FAST, evaluate, same
from test_strategies import SPACE, STRATEGIES

import metabook as mb
from metabook.data import files
from metabook.nas import loop

EVOLUTION = partial(mb.nas.RegularizedEvolution, population=5, sample=2)


@pytest.fixture(params=FAST)
def make(request):
    return lambda seed=0: STRATEGIES[request.param](SPACE, seed)


def log(folder):
    lines = (folder / "log.jsonl").read_text().splitlines()
    trials = [json.loads(line) for line in lines]
    return [
        mb.nas.Trial(tuple(trial.pop("architecture")), **trial)
        for trial in trials
    ]


def known_as(name, function):
    """A function that says itself what it is."""

    def other(arch):
        return function(arch)

    other.settings = lambda: {"name": name}
    return other


@pytest.mark.parametrize("save_every", [0.0, 3600.0])
@pytest.mark.parametrize(("in_flight", "workers"), [(1, 0), (3, 0), (3, 2)])
def test_a_search_resumes_bit_for_bit(
    make, tmp_path, monkeypatch, in_flight, workers, save_every
):
    monkeypatch.setattr(loop, "SAVE_EVERY", save_every)

    def run(strategy, limit, folder):
        calls = itertools.count()

        def interrupted(arch):
            if next(calls) >= limit:
                raise KeyboardInterrupt
            return evaluate(arch)

        return mb.nas.search(
            strategy,
            known_as("evaluate", interrupted),
            30,
            executor=ThreadPoolExecutor(workers) if workers else None,
            in_flight=in_flight,
            checkpoint=folder,
        )

    whole = make()
    expected = run(whole, math.inf, None)
    for limit in (6, 0, 1, 3):
        with pytest.raises(KeyboardInterrupt):
            run(make(), limit, tmp_path)
    parts = make()
    found = run(parts, math.inf, tmp_path)
    assert found.history == expected.history == log(tmp_path)
    assert same(whole.state_dict(), parts.state_dict())


def test_a_finished_search_is_not_made_again_and_a_larger_budget_goes_on(
    make, tmp_path
):
    def search(budget, function=evaluate):
        return mb.nas.search(
            make(), known_as("it", function), budget, checkpoint=tmp_path
        )

    first, again = search(20), search(20, pytest.fail)
    assert again.history == first.history
    assert again.seconds >= first.seconds
    whole = mb.nas.search(make(), evaluate, budget=35)
    assert search(35).history == whole.history
    with pytest.raises(
        ValueError, match="holds 35 trials already, more than 20"
    ):
        search(20)


def scored(factor):
    return lambda arch: factor * arch[0]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("strategy.seed", {"strategy": EVOLUTION(SPACE, seed=1)}),
        ("strategy.sample", {"strategy": EVOLUTION(SPACE, sample=3)}),
        ("strategy", {"strategy": mb.nas.RandomSearch(SPACE)}),
        (
            "space.decisions",
            {
                "strategy": EVOLUTION(
                    mb.nas.SearchSpace(dict(reversed(SPACE.decisions.items())))
                )
            },
        ),
        (
            "space.constraint",
            {
                "strategy": EVOLUTION(
                    mb.nas.SearchSpace(
                        SPACE.decisions, constraint=lambda arch: arch[0]
                    )
                )
            },
        ),
        ("evaluate.closure.factor", {"evaluate": scored(2)}),
        ("evaluate", {"evaluate": lambda arch: -arch[0]}),
        ("in_flight", {"in_flight": 2}),
    ],
)
def test_another_search_in_the_same_folder_is_refused_by_name(
    tmp_path, name, changes
):
    def search(strategy=None, evaluate=None, budget=5, **options):
        strategy = strategy or EVOLUTION(SPACE)
        evaluate = evaluate or scored(1)
        return mb.nas.search(
            strategy, evaluate, budget, checkpoint=tmp_path, **options
        )

    search()
    with pytest.raises(
        ValueError, match=rf"holds a search with other settings:.* {name}"
    ):
        search(**changes)
    assert len(search(budget=9, seconds=60, progress=False).history) == 9


@pytest.mark.parametrize("kind", ["table", "training"])
def test_a_table_and_a_training_are_known_by_what_they_are(tmp_path, kind):
    def make(x):
        if kind == "table":
            space = mb.nas.SearchSpace({"a": [0, 1]})
            return space, mb.nas.Table(space, {1: [0.1, x]}, [0.1, 0.2]).valid
        tasks, valid, _ = mb.nas.candidates.glyph_tasks()
        build = mb.nas.candidates.glyph_network
        return mb.nas.glyph_space(), mb.nas.candidates.TrainAndScore(
            build, tasks, valid, iterations=1, episodes=int(10 * x)
        )

    def search(x, budget):
        space, evaluate = make(x)
        mb.nas.search(
            mb.nas.RandomSearch(space), evaluate, budget, checkpoint=tmp_path
        )

    search(0.5, 1)
    with pytest.raises(ValueError, match=r"other settings: evaluate\."):
        search(0.6, 2)
    search(0.5, 2)


class Own:
    """A strategy without a word of what it is."""

    def __init__(self, seed=0):
        self.space, self.rng = SPACE, random.Random(seed)

    def ask(self):
        return self.space.random(self.rng)

    def tell(self, arch, score):
        pass

    def state_dict(self):
        return {"random": self.rng.getstate()}

    def load_state_dict(self, state):
        self.rng.setstate(state["random"])


def test_what_does_not_say_what_it_is_is_refused_a_folder(tmp_path):
    class Counter:
        def __call__(self, arch):
            return 1.0

    with pytest.raises(TypeError, match="strategy is a Own.*settings"):
        mb.nas.search(Own(), evaluate, 5, checkpoint=tmp_path / "a")
    with pytest.raises(TypeError, match="evaluate is a Counter.*settings"):
        mb.nas.search(EVOLUTION(SPACE), Counter(), 5, checkpoint=tmp_path / "a")
    assert not (tmp_path / "a").exists()
    mb.nas.search(Own(), Counter(), 5)  # without a folder nobody asks

    class Named(Own):
        def settings(self):
            return {"seed": 0}

    Counter.settings = lambda self: {"returns": 1.0}
    mb.nas.search(Named(), Counter(), 5, checkpoint=tmp_path / "a")
    assert len(log(tmp_path / "a")) == 5


# --- interruptions ---


def press_ctrl_c():
    """From any thread, as a terminal does."""
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def test_ctrl_c_in_the_last_evaluation_is_heard_and_all_is_kept(tmp_path):
    calls = itertools.count(1)

    def press(arch):
        if next(calls) == 5:
            threading.Timer(0.05, press_ctrl_c).start()
            time.sleep(5)
        return evaluate(arch)

    def search():
        return mb.nas.search(
            EVOLUTION(SPACE), known_as("press", press), 5, checkpoint=tmp_path
        )

    with pytest.raises(KeyboardInterrupt):
        search()
    assert len(log(tmp_path)) == 4
    assert len(search().history) == 5


def test_ctrl_c_while_a_strategy_learns_waits_until_it_has(tmp_path):
    class Pressed(mb.nas.RandomSearch):
        told = 0

        def tell(self, arch, score):
            if self.told == 4:
                signal.raise_signal(signal.SIGINT)
            self.told += 1

    for budget in (20, 5):  # in the middle, and after the last one
        strategy, folder = Pressed(SPACE), tmp_path / str(budget)
        with pytest.raises(KeyboardInterrupt):
            mb.nas.search(strategy, evaluate, budget, checkpoint=folder)
        assert len(log(folder)) == strategy.told == 5


def test_all_that_was_evaluated_is_kept_also_what_was_not_told(tmp_path):
    """Of thirty in flight the first one hangs, and the others are done."""
    space = mb.nas.SearchSpace({"number": range(10_000)})
    hang, calls = threading.Event(), []

    def slow(arch):
        calls.append(arch)
        if len(calls) == 1:
            hang.wait(30)
        elif len(calls) == 30:
            time.sleep(0.2)
            press_ctrl_c()
        return float(arch[0])

    def search(strategy, executor=None, **options):
        return mb.nas.search(
            strategy,
            known_as("slow", slow),
            30,
            executor=executor,
            in_flight=30,
            **options,
        )

    with ThreadPoolExecutor(30) as pool:
        try:
            with pytest.raises(KeyboardInterrupt):
                search(mb.nas.RandomSearch(space), pool, checkpoint=tmp_path)
        finally:
            hang.set()
    state = torch.load(tmp_path / "last.pt")["state"]
    assert len(state["evaluated"]) >= 28
    assert len(state["pending"]) == 30
    done = len(state["evaluated"])
    calls[:] = [None] * 50
    found = search(mb.nas.RandomSearch(space), checkpoint=tmp_path)
    assert len(calls) - 50 == 30 - done, "only what was missing is made"
    expected = search(mb.nas.RandomSearch(space))
    assert found.history == expected.history


def test_a_pool_that_breaks_loses_nothing_that_was_told(tmp_path):
    class Breaking(ThreadPoolExecutor):
        submitted = 0

        def submit(self, *args):
            self.submitted += 1
            future = super().submit(*args)
            if self.submitted == 4:
                future.result()
                future._exception = RuntimeError("the pool is broken")
            return future

    with pytest.raises(RuntimeError, match="the pool is broken"):
        mb.nas.search(
            EVOLUTION(SPACE), evaluate, 9, executor=Breaking(1),
            checkpoint=tmp_path,
        )  # fmt: skip
    assert len(log(tmp_path)) >= 3
    found = mb.nas.search(EVOLUTION(SPACE), evaluate, 9, checkpoint=tmp_path)
    assert found.history == mb.nas.search(EVOLUTION(SPACE), evaluate, 9).history


def work(folder, say=None):
    """A search to be killed."""

    def slow(arch):
        time.sleep(0.002)
        return evaluate(arch)

    strategy = EVOLUTION(SPACE)
    tell = strategy.tell

    def tell_and_say(arch, score):
        tell(arch, score)
        if say:
            say(len(strategy.population))

    strategy.tell = tell_and_say
    return mb.nas.search(
        strategy, known_as("slow", slow), 120, in_flight=3, checkpoint=folder
    )


def test_a_search_that_is_killed_again_and_again_ends_the_same(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.001)
    monkeypatch.setattr(loop, "SHARE", math.inf)
    parted, rng = tmp_path / "parted", random.Random(0)
    whole = work(tmp_path / "whole")
    for _ in range(12):
        words = rng.randrange(2, 6)
        with Child(lambda say: work(parted, say), words + 3) as child:
            for _ in range(words):
                child.line()
            time.sleep(rng.random() * 0.01)
    state = torch.load(parted / "last.pt")["state"]
    assert 12 <= state["told"] < 120, "none has reached the end"
    assert work(parted).history == whole.history == log(parted)
    assert not list(parted.glob("*.part"))


def test_two_processes_do_not_search_in_one_folder(tmp_path):
    with Child(lambda say: work(tmp_path, say)) as child:
        child.line()
        with pytest.raises(
            BlockingIOError, match=f"written by process {child.pid} on"
        ):
            work(tmp_path)


def test_every_truncation_of_a_search_is_explained(tmp_path):
    def search():
        return mb.nas.search(EVOLUTION(SPACE), evaluate, 9, checkpoint=tmp_path)

    search()
    whole = (tmp_path / "last.pt").read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "last.pt").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"last\.pt is not a readable"):
            search()
    content = {"format": 1, "kind": "search", "settings": {}}
    files.save_state(tmp_path / "last.pt", content)
    with pytest.raises(ValueError, match=r"lacks \['state'\]"):
        search()


def test_a_state_that_cannot_be_loaded_again_is_noticed_at_once(tmp_path):
    class Odd(mb.nas.RandomSearch):
        def state_dict(self):
            return {"rng": self.rng}

    with pytest.raises(TypeError, match=r"cannot be loaded again.*tensors"):
        mb.nas.search(Odd(SPACE), evaluate, 9, checkpoint=tmp_path)


def test_a_table_is_searched_without_writing_every_answer(
    tmp_path, monkeypatch
):
    saves = []
    monkeypatch.setattr(
        "metabook.training.checkpoints.save_state",
        lambda path, state, **_: saves.append(state["state"]["told"]),
    )
    table = mb.nas.glyph_table()
    strategy = mb.nas.RandomSearch(table.space)
    mb.nas.search(strategy, table.valid, 2000, checkpoint=tmp_path)
    assert saves[-1] == 2000
    assert len(saves) < 20
