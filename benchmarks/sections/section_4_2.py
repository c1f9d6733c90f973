# SPDX-License-Identifier: MIT
"""Does a Euclidean prototypical network beat one that compares by the cosine?
Nine learners, five seeds each.

    python benchmarks/sections/section_4_2.py

About ten minutes of one core; run the same line again to resume. Every run is
short: 300 training tasks. Each learner has the learning rate that is best on
validation characters with seed 0. The result goes to
metabook/book/results/section_4_2.json.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import metabook as mb

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
import command
from cache import Cache

LEARNERS = {
    "squared": {"distance": "squared_euclidean"},
    "squared, 10": {"distance": "squared_euclidean", "temperature": 10.0},
    "squared, learned": {
        "distance": "squared_euclidean",
        "learn_temperature": True,
    },
    "plain": {"distance": "euclidean"},
    "manhattan": {"distance": "manhattan"},
    "cosine, 1": {"distance": "cosine"},
    "cosine, 0.1": {"distance": "cosine", "temperature": 0.1},
    "cosine, learned from 1": {"distance": "cosine", "learn_temperature": True},
    "cosine, learned from 0.1": {
        "distance": "cosine",
        "temperature": 0.1,
        "learn_temperature": True,
    },
}
PROTOCOL = {
    "data": {"glyphs": 400, "split": [0.6, 0.2, 0.2], "seed": 0},
    "network": "Conv4, width 16",
    "training": {
        "way": 20,
        "shot": 1,
        "query": 5,
        "iterations": 300,
        "tasks_per_batch": 1,
    },
    "lrs": [0.001, 0.003, 0.01, 0.03],
    "valid": {
        "way": 5,
        "shot": 1,
        "query": 10,
        "seed": 500_000,
        "episodes": 150,
    },
    "test": {
        "way": 5,
        "shots": [1, 5],
        "query": 10,
        "seed": 1_000_000,
        "episodes": 300,
    },
    "seeds": [0, 1, 2, 3, 4],
    "note": (
        "a seed sets the initial weights and the training tasks; all learners"
        " meet the same ones, and the same tests"
    ),
}
TINY = {
    "data": {"glyphs": 40},
    "training": {"iterations": 1},
    "lrs": [0.003],
    "valid": {"episodes": 2},
    "test": {"episodes": 2},
    "seeds": [0, 1],
}

Numbers = dict[str, Any]


def measure(protocol: Numbers, cache: Cache, quick: bool) -> Numbers:
    """Each learner with its learning rate, from every seed."""
    data = protocol["data"]
    parts = mb.glyphs(classes=data["glyphs"], seed=data["seed"]).split(
        *data["split"], seed=data["seed"]
    )
    first, *others = protocol["seeds"]

    def kept(name: str, lr: float, seed: int) -> Numbers:
        return cache(
            f"{name}, lr {lr}, seed {seed}",
            run,
            name,
            lr,
            seed,
            protocol,
            parts,
        )

    learners = {}
    for name in LEARNERS:
        valid = {lr: kept(name, lr, first)["valid"] for lr in protocol["lrs"]}
        lr = max(valid, key=lambda rate: valid[rate])
        learners[name] = {
            "lr": lr,
            "valid": valid,
            "runs": [kept(name, lr, seed) for seed in (first, *others)],
        }
    return {"learners": learners}


def run(
    name: str,
    lr: float,
    seed: int,
    protocol: Numbers,
    parts: Sequence[mb.LabelledImages],
) -> Numbers:
    """Train one learner, and measure it on validation and test characters."""
    training, of_valid, of_test = (
        protocol[part] for part in ("training", "valid", "test")
    )
    train, valid, test = parts
    torch.manual_seed(seed)
    learner = mb.ProtoNet(mb.Conv4(width=16), **LEARNERS[name])
    tasks = mb.FewShotTasks(
        train,
        way=training["way"],
        shot=training["shot"],
        query=training["query"],
        seed=seed,
    )
    history = mb.train(
        learner,
        tasks,
        iterations=training["iterations"],
        tasks_per_batch=training["tasks_per_batch"],
        lr=lr,
        progress=False,
    )

    def accuracy(images: mb.LabelledImages, of: Numbers, shot: int) -> float:
        tasks = mb.FewShotTasks(
            images, way=of["way"], shot=shot, query=of["query"], seed=of["seed"]
        )
        score = mb.evaluate(learner, tasks, episodes=of["episodes"])
        return round(100 * score.mean, 3)

    return {
        "seed": seed,
        "valid": accuracy(valid, of_valid, of_valid["shot"]),
        "test": [accuracy(test, of_test, shot) for shot in of_test["shots"]],
        # in training, over the last 50 tasks
        "loss": round(sum(history.losses[-50:]) / 50, 4),
        "temperature": round(learner.log_temperature.exp().item(), 4),
    }


if __name__ == "__main__":
    command.run(__file__, __doc__, PROTOCOL, TINY, measure)
