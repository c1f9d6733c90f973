# SPDX-License-Identifier: MIT
"""Meta-train on sine waves, 70,000 iterations of 25 tasks, and measure the
query error after 0 to 10 inner steps.

    python benchmarks/sections/sinusoids.py

About forty minutes of one core, with the outer gradient compiled, which needs a
C++ compiler; run the same line again to resume. The network and the waves are
those of the MAML paper, section 5.1. The result goes to
metabook/book/results/sinusoids.json.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import metabook as mb

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
import command
from cache import Cache

METHODS = {
    "maml": lambda **options: mb.MAML(mb.MLP(1, 1), **options),
    "fomaml": lambda **options: mb.MAML(
        mb.MLP(1, 1), first_order=True, **options
    ),
    "meta_sgd": lambda **options: mb.MetaSGD(mb.MLP(1, 1), **options),
    "joint": lambda **options: mb.JointTraining(mb.MLP(1, 1), **options),
}
PROTOCOL = {
    "task": (
        "sine waves, amplitude 0.1 to 5, phase 0 to pi, inputs -5 to 5;"
        " 10-shot; network 1-40-40-1"
    ),
    "training": {
        "iterations": 70_000,
        "tasks_per_batch": 25,
        "query": 10,
        "lr": 1e-3,
        "inner_lr": 0.01,
        "inner_steps": 1,
    },
    "test": {
        "episodes": 600,
        "query": 100,
        "seed": 1_000_001,
        "steps": {"maml": 10, "fomaml": 10, "joint": 10, "meta_sgd": 1},
    },
    "note": (
        "Meta-SGD learns its step sizes for one step; a few more of the same"
        " diverge."
    ),
    "published": {
        "maml": 0.6702,
        "meta_sgd": 0.3145,
        "source": (
            "10-shot loss in a public reimplementation,"
            " https://github.com/63days/Meta-SGD, without interval"
        ),
    },
}
TINY = {
    "training": {"iterations": 2},
    "test": {"episodes": 4, "query": 10},
}
SEEDS = 3  # of the initial weights and of the training tasks

Numbers = dict[str, Any]


def measure(protocol: Numbers, cache: Cache, quick: bool) -> Numbers:
    """Every method from every seed."""
    return {
        "runs": {
            method: [
                cache(
                    f"{method}_seed{seed}",
                    run,
                    method,
                    seed,
                    protocol,
                    cache.folder / f"{method}_seed{seed}",
                    not quick,
                )
                for seed in range(1 if quick else SEEDS)
            ]
            for method in METHODS
        }
    }


def run(
    method: str,
    seed: int,
    protocol: Numbers,
    checkpoint: Path,
    compiled: bool,
) -> Numbers:
    """Train one learner and measure it after every inner step."""
    training, test = protocol["training"], protocol["test"]
    torch.manual_seed(seed)
    learner = METHODS[method](
        inner_lr=training["inner_lr"],
        inner_steps=training["inner_steps"],
        loss_fn=F.mse_loss,
        compiled=compiled,
    )
    history = mb.train(
        learner,
        mb.Sinusoids(shot=10, query=training["query"], seed=seed),
        iterations=training["iterations"],
        tasks_per_batch=training["tasks_per_batch"],
        lr=training["lr"],
        checkpoint=checkpoint,
        checkpoint_every=5000,
    )
    scores = mb.evaluate_steps(
        learner,
        mb.Sinusoids(shot=10, query=test["query"], seed=test["seed"]),
        steps=test["steps"][method],
        episodes=test["episodes"],
        batch=100,
    )
    return {
        "seed": seed,
        "minutes": round(history.seconds / 60, 1),
        "compiled": compiled,
        "mse": [round(s.mean, 4) for s in scores],
        "ci95": [round(s.ci95, 4) for s in scores],
    }


if __name__ == "__main__":
    command.run(__file__, __doc__, PROTOCOL, TINY, measure)
