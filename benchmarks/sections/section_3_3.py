# SPDX-License-Identifier: MIT
"""Metric learners of section 3.3 over several seeds: train ways, relatives,
shots, and a data set of another kind.

    python benchmarks/sections/section_3_3.py

About fifteen minutes of one core; run the same line again to resume. Every
learner sees 120 images an iteration: 20 classes of six drawings, in one task or
in several smaller ones. The short runs are those that the notebook repeats live
with seed 0; the long ones train four times as long. The result goes to
metabook/book/results/section_3_3.json.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import metabook as mb

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
import command
from cache import Cache
from measures import embedded, percent, timed


def network(norm: str = "batch") -> nn.Module:
    return mb.Conv4(width=32, norm=norm)


def relation(
    method: type[mb.RelationNet] = mb.RelationNet, **options: object
) -> mb.Learner:
    return method(network(), features=32, **options)


# name: learner, way, shot and tasks an iteration; way x tasks x (shot + query)
# = 120 images
LEARNERS = {
    "proto_2way": (lambda: mb.ProtoNet(network()), 2, 1, 10),
    "proto_5way": (lambda: mb.ProtoNet(network()), 5, 1, 4),
    "proto_10way": (lambda: mb.ProtoNet(network()), 10, 1, 2),
    "proto_20way": (lambda: mb.ProtoNet(network()), 20, 1, 1),
    "matching": (lambda: mb.MatchingNet(network()), 20, 1, 1),
    "relation": (lambda: relation(loss_fn=F.cross_entropy), 20, 1, 1),
    "relation_squared_error": (relation, 20, 1, 1),
    "proto_20way_5shot": (lambda: mb.ProtoNet(network()), 20, 5, 1),
    "group_norm_2way": (lambda: mb.ProtoNet(network("group")), 2, 1, 10),
    "group_norm_20way": (lambda: mb.ProtoNet(network("group")), 20, 1, 1),
}
LONG = ("proto_2way", "proto_5way", "proto_20way", "matching", "relation")
PROTOCOL = {
    "task": (
        "procedural characters: 400 to train on (glyphs, seed 0), 100 others to"
        " test on (seed 1)"
    ),
    "network": "Conv4, 32 channels, batch norm unless said: 32 features",
    "training": {
        "iterations": {"short": 150, "long": 600},
        "images": 120,
        "lr": 0.003,
        "schedule": "cosine",
    },
    "test": {
        "episodes": 600,
        "query": 10,
        "seed": 1,
        "ways": [5, 20],
        "shots": [1, 2, 5, 10, 20],
    },
    "digits": (
        "the short runs also on scikit-learn's digits (metabook.digits), 5-way,"
        " 1 and 5 shots"
    ),
    "seeds": {"short": 5, "long": 3},
}
TINY = {
    "training": {"iterations": {"short": 1, "long": 2}},
    "test": {"episodes": 2, "query": 5, "shots": [1, 5]},
    "seeds": {"short": 1, "long": 1},
}

Numbers = dict[str, Any]


class RelationOfMeans(mb.RelationNet):
    """A relation network that is handed the mean of a class, as though it were
    one example.
    """

    def score(
        self, support_z: Tensor, support_y: Tensor, query_z: Tensor
    ) -> Tensor:
        """As in `mb.RelationNet`."""
        means = mb.compute_prototypes(support_z, support_y)
        return super().score(
            means, torch.arange(means.shape[1]).expand(len(means), -1), query_z
        )


def measure(protocol: Numbers, cache: Cache, quick: bool) -> Numbers:
    """Every learner from every seed; in the short runs first seed 0 of all."""
    if quick:
        few = mb.glyphs(classes=20, examples=10, seed=0)
        data = {"train": few, "test": few, "digits": few}
    else:
        data = {
            "train": mb.glyphs(classes=400, seed=0),
            "test": mb.glyphs(classes=100, examples=60, seed=1),
            "digits": mb.digits(),
        }
    runs: dict[str, dict[str, list[Numbers]]] = {}
    for length, names in (("short", tuple(LEARNERS)), ("long", LONG)):
        of_length = runs[length] = {name: [] for name in names}
        for seed in range(protocol["seeds"][length]):
            for name in names:
                part = f"{length}_{name}_seed{seed}"
                of_length[name].append(
                    cache(part, timed, run, name, length, seed, protocol, data)
                )
    return {"runs": runs}


def run(
    name: str,
    length: str,
    seed: int,
    protocol: Numbers,
    data: dict[str, mb.LabelledImages],
) -> Numbers:
    """Train one learner and measure it on tasks of every way and shot."""
    training, test = protocol["training"], protocol["test"]
    make, way, shot, tasks = LEARNERS[name]
    torch.manual_seed(seed)
    learner = make()
    mb.train(
        learner,
        mb.FewShotTasks(
            data["train"], way=way, shot=shot, query=6 - shot, seed=seed
        ),
        iterations=training["iterations"][length],
        tasks_per_batch=tasks,
        lr=training["lr"],
        schedule=training["schedule"],
    )
    result: Numbers = {"seed": seed}

    def add(
        key: str,
        learner: mb.Learner,
        images: str,
        way: int,
        shots: Sequence[int],
    ) -> None:
        scores = embedded(learner, data[images], way, shots, test)
        numbers = {k: percent(score) for k, score in scores.items()}
        result[key] = {k: n["accuracy"] for k, n in numbers.items()}
        result[f"{key}_ci95"] = {k: n["ci95"] for k, n in numbers.items()}

    add("5way", learner, "test", 5, test["shots"])
    add("20way", learner, "test", 20, [1, 5])
    if length == "short":
        add("digits", learner, "digits", 5, [1, 5])
    if isinstance(learner, mb.RelationNet):
        # trained with one example a class, and it adds examples up
        of_means = relation(loss_fn=learner.loss_fn, method=RelationOfMeans)
        of_means.load_state_dict(learner.state_dict())
        add("5way_means", of_means, "test", 5, test["shots"])
        del result["5way_means_ci95"]  # as wide as the others
    return result


if __name__ == "__main__":
    command.run(__file__, __doc__, PROTOCOL, TINY, measure)
