# SPDX-License-Identifier: MIT
"""A search whose workers are processes, some of which are killed."""

import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import pytest
import torch

import metabook as mb

SPACE = mb.nas.SearchSpace({"width": range(40), "depth": range(10)})
BUDGET = 24


class Score:
    """Scores an architecture; the worker that gets the ``fatal``-th one dies,
    so many ``times``. What was evaluated stands in a folder.
    """

    def __init__(self, folder, fatal=None, times=1):
        self.folder, self.fatal, self.times = folder, fatal, times

    def settings(self):
        return {"scores": "width times depth"}

    def __call__(self, arch):
        begun = len(list(self.folder.glob("begun*")))
        deaths = self.folder / "deaths"
        died = len(deaths.read_text()) if deaths.exists() else 0
        (self.folder / f"begun {time.time_ns()} {os.getpid()}").touch()
        if self.fatal is not None and begun >= self.fatal and died < self.times:
            deaths.write_text("x" * (died + 1))
            os.kill(os.getpid(), signal.SIGKILL)
        with (self.folder / f"done {arch}").open("a") as file:
            file.write("x")
        return float(arch[0] * arch[1])

    def done(self):
        """How often each architecture was evaluated to the end."""
        return [len(f.read_text()) for f in self.folder.glob("done*")]


def search(evaluate, **options):
    strategy = mb.nas.RegularizedEvolution(
        SPACE, population=5, sample=2, seed=0
    )
    return mb.nas.search(strategy, evaluate, BUDGET, in_flight=4, **options)


def pool():
    return ProcessPoolExecutor(2, mp_context=get_context("fork"))


@pytest.fixture
def expected(tmp_path):
    (tmp_path / "alone").mkdir()
    return search(Score(tmp_path / "alone")).history


def test_processes_find_what_one_finds(tmp_path, expected):
    with pool() as executor:
        found = search(Score(tmp_path), executor=executor)
    assert found.history == expected
    assert max(Score(tmp_path).done()) == 1


def test_a_pool_that_has_lost_a_worker_says_so_and_keeps_the_rest(
    tmp_path, expected
):
    run = tmp_path / "run"
    evaluate = Score(tmp_path, fatal=11)
    with (
        pool() as executor,
        pytest.raises(BrokenProcessPool, match="a worker has died.*new exec"),
    ):
        search(evaluate, executor=executor, checkpoint=run)
    state = torch.load(run / "last.pt")["state"]
    assert 4 <= state["told"] < BUDGET
    kept = state["told"] + len(state["evaluated"])
    assert kept >= 11 - 2, "what was done; two were in work"
    with pool() as executor:  # the way out
        found = search(evaluate, executor=executor, checkpoint=run)
    assert found.history == expected


def test_a_pool_that_is_broken_already_is_told_too(tmp_path):
    run = tmp_path / "run"
    with pool() as executor:
        with pytest.raises(BrokenProcessPool):
            executor.submit(os._exit, 1).result()
        with pytest.raises(BrokenProcessPool, match="after 0 trials"):
            search(Score(tmp_path), executor=executor, checkpoint=run)
    assert len(torch.load(run / "last.pt")["state"]["pending"]) == 4


@pytest.fixture
def dask():
    """A cluster of two worker processes on this machine."""
    distributed = pytest.importorskip(
        "distributed", reason="Dask is not installed: pip install distributed"
    )
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_dask_finds_what_one_finds(dask, tmp_path, expected):
    found = search(Score(tmp_path), executor=dask.get_executor())
    assert found.history == expected


def test_workers_of_dask_that_are_killed_lose_nothing(dask, tmp_path, expected):
    evaluate = Score(tmp_path, fatal=6, times=2)
    found = search(evaluate, executor=dask.get_executor())
    assert (tmp_path / "deaths").read_text() == "xx", "two were killed"
    assert found.history == expected
