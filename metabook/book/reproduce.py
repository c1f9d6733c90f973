# SPDX-License-Identifier: MIT
"""The experiments of the papers, by the papers' protocol as far as two cores
go; `metabook reproduce` runs them.

An experiment is meta-training on the training and validation characters of
Omniglot, and a test on its test characters. Its length and its step sizes were
fixed beforehand: nothing is chosen here, and the test characters are looked at
once, at the end. Shown in section 5.2 of the book and on the page *The papers'
tables on a laptop*.
"""

import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metabook.data.images import LabelledImages
from metabook.data.omniglot import omniglot
from metabook.learner.protocol import Learner
from metabook.metric.protonet import ProtoNet
from metabook.models.conv4 import Conv4
from metabook.optimization.maml import MAML
from metabook.tasks.few_shot import FewShotTasks
from metabook.training.evaluate import evaluate
from metabook.training.train import train

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "experiment",
    "keep_freed_memory",
    "reproduce",
]

SNELL = "Snell, Swersky & Zemel 2017, Table 1, https://arxiv.org/abs/1703.05175"
FINN = "Finn, Abbeel & Levine 2017, Table 1, https://arxiv.org/abs/1703.03400"


EPISODES = 1000  # of every test, as in the papers


@dataclass(frozen=True)
class Experiment:
    """One training run and the tests that a paper reports of it."""

    learner: Callable[[], Learner]
    network: str
    way: int  # classes of a training task
    shot: int
    query: int  # queries a class of a training task
    tasks_per_batch: int
    iterations: int
    lr: float
    test_query: int  # queries a class of a test task, as in the authors' code
    test_steps: int | None  # inner steps at test
    # (way, shot): accuracy in % and its printed interval
    paper: dict[tuple[int, int], tuple[float, float | None]]
    source: str
    differences: str  # from the paper's protocol


def _protonet(
    shot: int,
    iterations: int,
    paper: dict[tuple[int, int], tuple[float, float | None]],
) -> Experiment:
    return Experiment(
        learner=lambda: ProtoNet(Conv4()),
        network="Conv4, 64 channels, max-pooling",
        way=60,
        shot=shot,
        query=5,
        tasks_per_batch=1,
        iterations=iterations,
        lr=1e-3,
        test_query=15,
        test_steps=None,
        paper=paper,
        source=SNELL,
        differences=(
            "The paper halves the step size every 2,000 episodes and stops"
            " early by the validation loss; here the step size falls along a"
            " cosine to zero, and the number of episodes is fixed beforehand."
            " The paper's images were shrunk by dropping pixels, these with a"
            " smoothing filter."
        ),
    )


def _maml(
    way: int,
    shot: int,
    inner_lr: float,
    steps: int,
    tasks: int,
    iterations: int,
    paper: tuple[float, float],
) -> Experiment:
    return Experiment(
        learner=lambda: MAML(
            Conv4(out=way, norm="batch_stats", strided=True),
            inner_lr,
            steps,
            threads=torch.get_num_threads(),
        ),
        network="Conv4, 64 channels, strided",
        way=way,
        shot=shot,
        query=5,
        tasks_per_batch=tasks // 2,
        iterations=iterations,
        lr=1e-3,
        test_query=shot,
        test_steps=3 if steps == 1 else steps,
        paper={(way, shot): paper},
        source=FINN,
        differences=(
            f"The paper trains for 60,000 iterations of {tasks} tasks with as"
            " many queries as shots, on a random split of 1,200 and 423"
            " characters that are turned at random, shrunk by dropping pixels;"
            " here fewer iterations of half as many tasks with five queries a"
            " class and a cosine schedule, on the split of Vinyals et al. (as"
            " many characters), where each rotation is a class of its own,"
            " shrunk with a smoothing filter."
        ),
    )


EXPERIMENTS = {
    "protonet-omniglot-1shot": _protonet(
        1, 10000, {(5, 1): (98.8, None), (20, 1): (96.0, None)}
    ),
    "protonet-omniglot-5shot": _protonet(
        5, 8000, {(5, 5): (99.7, None), (20, 5): (98.9, None)}
    ),
    "maml-omniglot-5way-1shot": _maml(5, 1, 0.4, 1, 32, 14000, (98.7, 0.4)),
    "maml-omniglot-5way-5shot": _maml(5, 5, 0.4, 1, 32, 8000, (99.9, 0.1)),
    "maml-omniglot-20way-1shot": _maml(20, 1, 0.1, 5, 16, 8000, (95.8, 0.3)),
    "maml-omniglot-20way-5shot": _maml(20, 5, 0.1, 5, 16, 8000, (98.9, 0.2)),
}


def experiment(name: str) -> Experiment:
    """One of `EXPERIMENTS`.

    Raises
    ------
    ValueError
        If there is none of this name; the message lists those that there are.
    """
    if name not in EXPERIMENTS:
        raise ValueError(
            f"no experiment is called {name!r}; there are:"
            f" {', '.join(EXPERIMENTS)}"
        )
    return EXPERIMENTS[name]


def reproduce(
    name: str,
    *,
    seed: int = 0,
    iterations: int | None = None,
    episodes: int = EPISODES,
    runs: str | Path = "runs",
    images: LabelledImages | None = None,
) -> dict[str, Any]:
    """Run one experiment, or go on with it where it was stopped.

    Parameters
    ----------
    name : str
        One of `EXPERIMENTS`.
    seed : int
        Of the initial weights and of the training tasks. Test tasks are always
        the same.
    iterations : int, optional
        Fewer than the experiment has, to try it.
    episodes : int
        Test episodes.
    runs : path
        Where checkpoints go.
    images : LabelledImages, optional
        Others than Omniglot, with a partition of their own.

    Returns
    -------
    dict
        What the committed results hold: training, tests with intervals beside
        the paper's numbers, differences.

    Raises
    ------
    ValueError
        If there is no such experiment, the message listing those that there
        are, or a number is out of range.

    Examples
    --------
    >>> sorted(EXPERIMENTS)[-1]
    'protonet-omniglot-5shot'
    """
    todo = experiment(name)
    iterations = todo.iterations if iterations is None else iterations
    for what, number, least in (
        ("iterations", iterations, 1),
        ("episodes", episodes, 1),
        ("seed", seed, 0),
    ):
        if number < least:
            raise ValueError(f"{what} is {number}; the least is {least}")
    images = omniglot(resize="lanczos") if images is None else images
    of_test = np.array(images.partition) == "test"
    seen = images.subset(np.flatnonzero(~of_test))
    test = images.subset(np.flatnonzero(of_test))
    folder = Path(runs) / f"{name}-seed{seed}-{iterations}"
    resumed, start = (folder / "last.pt").exists(), time.process_time()
    keep_freed_memory()
    torch.manual_seed(seed)
    learner = todo.learner()
    history = train(
        learner,
        FewShotTasks(seen, todo.way, todo.shot, todo.query, seed=seed),
        iterations,
        todo.tasks_per_batch,
        lr=todo.lr,
        schedule="cosine",
        checkpoint=folder,
    )
    core_minutes = (
        None if resumed else round((time.process_time() - start) / 60, 1)
    )
    if isinstance(learner, MAML) and todo.test_steps:
        learner.inner_steps = todo.test_steps
    tests = [
        _test(learner, test, way, shot, todo.test_query, episodes)
        | {"paper": paper, "paper_ci95": ci95}
        for (way, shot), (paper, ci95) in todo.paper.items()
    ]
    return {
        "experiment": name,
        "network": todo.network,
        "transductive": learner.transductive,
        "training": {
            "classes": len(seen.names),
            "way": todo.way,
            "shot": todo.shot,
            "query": todo.query,
            "tasks_per_batch": todo.tasks_per_batch,
            "iterations": iterations,
            "minutes": round(history.seconds / 60, 1),
            "core_minutes": core_minutes,
            "threads": torch.get_num_threads(),
            "seed": seed,
        },
        "tests": tests,
        "source": todo.source,
        "differences": todo.differences,
    }


def _test(
    learner: Learner,
    images: LabelledImages,
    way: int,
    shot: int,
    query: int,
    episodes: int,
) -> dict[str, Any]:
    """Accuracy on the test classes with their rotations, as in the papers, and
    on the upright ones alone; in %.
    """
    turned = ("090", "180", "270")
    upright = images.subset(
        [c for c, name in enumerate(images.names) if not name.endswith(turned)]
    )
    result: dict[str, Any] = {"way": way, "shot": shot, "query": query}
    result["episodes"] = episodes
    parts = [("rotated", images, query), ("upright", upright, query)]
    # how many queries there are matters to such a learner
    if learner.transductive:
        parts.append(("rotated_15_queries", images, 15))
    for part, of, queries in parts:
        score = evaluate(
            learner,
            FewShotTasks(of, way, shot, queries, seed=1),
            episodes,
            progress=True,
        )
        result[part] = {
            "accuracy": round(100 * score.mean, 2),
            "ci95": round(100 * score.ci95, 2),
        }
    return result


def keep_freed_memory() -> None:
    """Tell glibc to reuse large blocks: otherwise every batch pays for fresh
    pages, a third of the time on Linux.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
