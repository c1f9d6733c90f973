# SPDX-License-Identifier: MIT
"""Meta-training by one process and by two, with the same tasks in a batch.

    python benchmarks/speed/scaling.py

A few minutes on two cores; run the same line again to resume. Each process has
one thread. In every round one process trains, and then two; the time is that of
training alone, after a first iteration. The result goes to
metabook/book/results/scaling.json.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

import metabook as mb

sys.path.append(str(Path(__file__).resolve().parents[1]))
import command
from cache import Cache

PROTOCOL = {
    "works": {
        "waves": {
            "what": "MAML, sine waves, a perceptron",
            "tasks_per_batch": 32,
            "iterations": 60,
        },
        "drawings": {
            "what": (
                "MAML, 5-way 1-shot, 15 queries a class, Conv4 with 64 channels"
            ),
            "tasks_per_batch": 16,
            "iterations": 3,
        },
    },
    "rounds": 5,
}
TINY = {
    "works": {
        "waves": {"iterations": 1, "tasks_per_batch": 2},
        "drawings": {"iterations": 1, "tasks_per_batch": 2},
    },
    "rounds": 1,
}

Numbers = dict[str, Any]


def measure(protocol: Numbers, cache: Cache, quick: bool) -> Numbers:
    """The median over rounds of seconds and of efficiency."""
    rounds = [
        {
            processes: cache(f"{i}-{processes}", together, processes, protocol)
            for processes in (1, 2)
        }
        for i in range(protocol["rounds"])
    ]
    loads = [r[2]["load_average"] for r in rounds]
    return {
        "load_average": digits(statistics.median(loads)),
        "measured": {w: summary(w, rounds) for w in protocol["works"]},
    }


def summary(work: str, rounds: list[dict[int, Numbers]]) -> Numbers:
    """Of one work; an efficiency of 1 is half the time with two processes."""
    one, two = ([r[n][work]["seconds"] for r in rounds] for n in (1, 2))
    efficiency = [a / (2 * b) for a, b in zip(one, two, strict=True)]
    last = rounds[-1][2][work]
    exchanges = [r[2][work]["exchange_seconds"] for r in rounds]
    return {
        "gradient_bytes": last["gradient_bytes"],
        "seconds_an_iteration": {
            "1": digits(statistics.median(one)),
            "2": digits(statistics.median(two)),
        },
        "exchange_seconds": digits(statistics.median(exchanges)),
        "efficiency": digits(statistics.median(efficiency)),
        "lowest_efficiency": digits(min(efficiency)),
        "highest_efficiency": digits(max(efficiency)),
    }


def digits(x: float) -> float:
    return float(f"{x:.3g}")


def together(processes: int, protocol: Numbers) -> Numbers:
    """What the first of so many processes has measured."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            one_of_them,
            (processes, protocol, folder),
            nprocs=processes,
            start_method="spawn",
        )
        found: Numbers = json.loads((Path(folder) / "found").read_text())
    return found | {"load_average": os.getloadavg()[0]}


def one_of_them(
    rank: int, processes: int, protocol: Numbers, folder: str
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=processes,
    )
    found = {name: timed(name, w) for name, w in protocol["works"].items()}
    if rank == 0:
        (Path(folder) / "found").write_text(json.dumps(found))
    dist.destroy_process_group()


def timed(name: str, work: Numbers) -> Numbers:
    torch.manual_seed(0)
    learner, tasks = MAKE[name]()

    def train(iterations: int) -> float:
        return mb.train(
            learner, tasks, iterations, work["tasks_per_batch"], progress=False
        ).seconds

    train(1)
    seconds = train(work["iterations"]) / work["iterations"]
    gradient = torch.cat([p.detach().flatten() for p in learner.parameters()])
    start = time.perf_counter()
    for _ in range(20):
        dist.all_reduce(gradient)
    return {
        "seconds": seconds,
        "gradient_bytes": gradient.numel() * gradient.element_size(),
        "exchange_seconds": (time.perf_counter() - start) / 20,
    }


def waves() -> tuple[mb.Learner, mb.Sinusoids]:
    return (
        mb.MAML(mb.MLP(1, 1), inner_lr=0.01, loss_fn=F.mse_loss),
        mb.Sinusoids(shot=10, query=10),
    )


def drawings() -> tuple[mb.Learner, mb.FewShotTasks]:
    return (
        mb.MAML(mb.Conv4(out=5, norm="batch_stats"), inner_lr=0.4),
        mb.FewShotTasks(mb.glyphs(classes=20, seed=0), way=5, shot=1, query=15),
    )


MAKE = {"waves": waves, "drawings": drawings}

if __name__ == "__main__":
    command.run(__file__, __doc__, PROTOCOL, TINY, measure)
