# SPDX-License-Identifier: MIT
"""How well do shared weights rank the 625 networks of the embedded table, each
of which was trained on its own?

    python benchmarks/sections/weight_sharing.py

About six minutes of one core; run the same line again to resume. Two supernets
a seed: one trained along random single paths, one as a mixture in the manner of
DARTS (first order). All networks are scored with the shared weights on the
table's validation tasks, and ranked; the truth is the table's test accuracy,
the mean of its trainings. What counts as the result of a search is what the
table says of the network that it returns: nowhere the accuracy with shared
weights. The result goes to metabook/book/results/weight_sharing.json.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from weight_sharing_ranks import summary

import metabook as mb
from metabook.book.reproduce import keep_freed_memory
from metabook.nas.supernet import (
    Supernet,
    shared_scores,
    train_mixture,
    train_paths,
)

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
import command
from cache import Cache
from tables import Tasks, glyph_tasks

PROTOCOL = {
    "task": (
        "the embedded table's: 20-way 1-shot with 5 queries a class, glyphs of"
        " 16 x 16 pixels, 500 characters to train and 250 to validate"
    ),
    "seeds": [0, 1, 2, 3, 4],
    "paths": (
        "2,000 iterations, each one task along one random path; Adam from 0.003"
        " along half a cosine to zero"
    ),
    "mixture": (
        "300 iterations, each a step on alpha with a task of one half of the"
        " training characters and a step on the weights with a task of the"
        " other half; Adam, weights as above, alpha 0.03"
    ),
    "evaluations": (
        "all architectures with the shared weights, 500 validation tasks each;"
        " batch norm's statistics taken anew for each, from 1,000 training"
        " images"
    ),
    "intervals": (
        "correlation: mean over the seeds, 95 % bootstrap interval over"
        " architectures (the same resample for all seeds), and 95 % t-interval"
        " over seeds"
    ),
}
TINY = {"seeds": [0, 1]}
METHODS = ("untrained", "paths", "mixture")

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Effort:
    """What is trained for how long, and scored on how many tasks."""

    space: mb.nas.SearchSpace
    tasks: Tasks
    paths: int = 2000  # iterations
    mixture: int = 300
    episodes: int = 500


def measure(protocol: Numbers, cache: Cache, quick: bool) -> Numbers:
    """Every method from every seed, and what their rankings are worth."""
    keep_freed_memory()
    effort = Effort(mb.nas.glyph_space(), glyph_tasks(quick))
    if quick:
        few = mb.nas.SearchSpace(
            dict.fromkeys(effort.space.decisions, ("skip", "conv3"))
        )
        effort = Effort(few, effort.tasks, paths=2, mixture=2, episodes=20)
    runs: dict[str, list[Numbers]] = {method: [] for method in METHODS}
    for seed in protocol["seeds"]:
        for method, several in runs.items():
            part = f"{method}_seed{seed}"
            several.append(cache(part, run, method, seed, effort))
    return summary(list(effort.space), runs, resamples=5 if quick else 1000)


def run(method: str, seed: int, effort: Effort) -> Numbers:
    """Train a supernet, and score all architectures with its weights."""
    train, valid, _ = effort.tasks
    supernet = Supernet(effort.space, seed=seed)
    clock = time.process_time()
    if method == "paths":
        # the seed chooses the stream of tasks too
        train_paths(
            supernet,
            tasks_of(train.images, 100 + seed),
            effort.paths,
            seed=seed,
        )
    if method == "mixture":
        classes = np.random.default_rng(seed).permutation(
            len(train.images.names)
        )
        for_weights, for_alpha = (
            tasks_of(train.images.subset(part), 100 + seed)
            for part in np.array_split(classes, 2)
        )
        train_mixture(supernet, for_weights, for_alpha, effort.mixture)
    trained = time.process_time()
    scores = shared_scores(supernet, train, valid, episodes=effort.episodes)
    found: Numbers = {
        "seconds_training": round(trained - clock, 1),
        "seconds_scoring": round(time.process_time() - trained, 1),
        "scores": [round(score, 2) for score in scores.values()],
    }
    if method == "mixture":
        shares = supernet.shares()
        assert all(abs(float(p.detach().sum()) - 1) < 1e-5 for p in shares)
        found |= {
            "shares": [np.round(p.tolist(), 3).tolist() for p in shares],
            "strongest": supernet.strongest(),
        }
    return found


def tasks_of(images: mb.LabelledImages, seed: int) -> mb.FewShotTasks:
    """20-way, or as many classes as there are."""
    way = min(20, len(images.names))
    return mb.FewShotTasks(images, way=way, shot=1, query=5, seed=seed)


if __name__ == "__main__":
    command.run(__file__, __doc__, PROTOCOL, TINY, measure)
