# SPDX-License-Identifier: MIT
"""What the embedding in bfloat16 does to the accuracy of prototypical networks.

    python benchmarks/speed/half_precision.py

About five minutes of one core; run the same line again to resume. Two trainings
a seed, from the same weights on the same episodes, one of them with
``embedding_dtype=torch.bfloat16``. Both are tested in float32, on the same
episodes. The result goes to metabook/book/results/half_precision.json.
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch

import metabook as mb

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
import command
from cache import Cache
from measures import embedded, mean_ci95, percent

PROTOCOL = {
    "task": (
        "procedural characters: 400 to train on (glyphs, seed 0), 100 others to"
        " test on (seed 1)"
    ),
    "network": "Conv4, 64 channels, batch norm",
    "training": {
        "way": 20,
        "shot": 1,
        "query": 5,
        "iterations": 300,
        "lr": 0.003,
        "schedule": "cosine",
    },
    "test": {"way": 20, "shot": 1, "query": 15, "episodes": 1000, "seed": 1},
    "seeds": 5,
}
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
TINY = {
    "training": {"iterations": 1},
    "test": {"query": 5, "episodes": 4},
    "seeds": 2,
}

Numbers = dict[str, Any]


def measure(protocol: Numbers, cache: Cache, quick: bool) -> Numbers:
    """The mean difference over seeds, and every seed."""
    train, test = (
        mb.glyphs(classes=20 if quick else 400, seed=0),
        mb.glyphs(classes=20 if quick else 100, examples=60, seed=1),
    )
    runs = [
        cache(f"seed{seed}", run, seed, protocol, train, test)
        for seed in range(protocol["seeds"])
    ]
    return {
        "difference": {
            "what": (
                "points of accuracy, bfloat16 minus float32: mean over seeds"
                " with its 95 % t-interval. A run's own difference_ci95 is over"
                " the shared test episodes."
            ),
            **mean_ci95([run["difference"] for run in runs]),
        },
        "runs": runs,
    }


def run(
    seed: int,
    protocol: Numbers,
    train: mb.LabelledImages,
    test: mb.LabelledImages,
) -> Numbers:
    """Accuracy in percent of both, their difference, and the seconds of
    processor time that each training took.
    """
    training, of_test = protocol["training"], protocol["test"]
    tasks = mb.FewShotTasks(
        train,
        way=training["way"],
        shot=training["shot"],
        query=training["query"],
        seed=seed,
    )
    scores: dict[str, mb.Score] = {}
    found: Numbers = {"seed": seed}
    for name, dtype in PRECISIONS.items():
        torch.manual_seed(seed)
        learner = mb.ProtoNet(mb.Conv4(), embedding_dtype=dtype)
        start = time.process_time()
        mb.train(
            learner,
            tasks,
            iterations=training["iterations"],
            tasks_per_batch=1,
            lr=training["lr"],
            schedule=training["schedule"],
        )
        found[f"{name}_seconds"] = round(time.process_time() - start, 1)
        (scores[name],) = embedded(
            learner, test, of_test["way"], [of_test["shot"]], of_test
        ).values()
        found[name] = percent(scores[name])["accuracy"]
    difference = mean_ci95(
        100 * (scores["bfloat16"].scores - scores["float32"].scores), digits=3
    )
    return found | {
        "difference": difference["mean"],
        "difference_ci95": difference["ci95"],
    }


if __name__ == "__main__":
    command.run(__file__, __doc__, PROTOCOL, TINY, measure)
