# SPDX-License-Identifier: MIT
"""Metric learners of section 3.3 over several seeds: train ways, relatives,
shots, and a data set of another kind.

    python benchmarks/section_3_3.py               # about fifteen minutes of one core; run again to resume
    python benchmarks/section_3_3.py summary       # puts the runs into metabook/book/results/section_3_3.json

Every learner sees 120 images an iteration: 20 classes of six drawings, in one
task or in several smaller ones. The short runs are those that the notebook
repeats live with seed 0; the long ones train four times as long.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import metabook as mb
from metabook.book import results


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
RUNS = Path("runs") / "section_3_3"


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


def run(
    name: str, length: str, seed: int, data: dict[str, mb.LabelledImages]
) -> dict[str, object]:
    """Train one learner and measure it on tasks of every way and shot."""
    make, way, shot, tasks = LEARNERS[name]
    training, test = PROTOCOL["training"], PROTOCOL["test"]
    torch.manual_seed(seed)
    learner = make()
    mb.train(
        learner,
        mb.FewShotTasks(
            data["train"], way=way, shot=shot, query=6 - shot, seed=seed
        ),
        training["iterations"][length],
        tasks,
        lr=training["lr"],
        schedule=training["schedule"],
    )
    result: dict[str, object] = {"seed": seed}

    def measure(
        learner: mb.Learner,
        key: str,
        images: mb.LabelledImages,
        way: int,
        shots: list[int],
    ) -> None:
        tasks = {
            str(shot): mb.FewShotTasks(
                images, way, shot, test["query"], seed=test["seed"]
            )
            for shot in shots
        }
        scores = mb.evaluate_embedded(learner, tasks, test["episodes"])
        result[key] = {k: round(100 * s.mean, 2) for k, s in scores.items()}
        result[f"{key}_ci95"] = {
            k: round(100 * s.ci95, 2) for k, s in scores.items()
        }

    measure(learner, "5way", data["test"], 5, test["shots"])
    measure(learner, "20way", data["test"], 20, [1, 5])
    if length == "short":
        measure(learner, "digits", data["digits"], 5, [1, 5])
    if isinstance(
        learner, mb.RelationNet
    ):  # trained with one example a class, and it adds examples up
        of_means = relation(loss_fn=learner.loss_fn, method=RelationOfMeans)
        of_means.load_state_dict(learner.state_dict())
        measure(of_means, "5way_means", data["test"], 5, test["shots"])
        del result["5way_means_ci95"]  # as wide as the others
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what", nargs="?", choices=["all", "summary"], default="all"
    )
    if parser.parse_args().what == "summary":
        runs: dict[str, dict[str, list[object]]] = {"short": {}, "long": {}}
        for length in runs:
            for name in LEARNERS:
                files = sorted(RUNS.glob(f"{length}_{name}_seed*.json"))
                if files:
                    runs[length][name] = [
                        json.loads(file.read_text("utf8")) for file in files
                    ]
        print(
            "written:"
            f" {results.save('section_3_3', {'command': 'python benchmarks/section_3_3.py'} | PROTOCOL | {'runs': runs})}"
        )
        return
    torch.set_num_threads(1)
    data = {
        "train": mb.glyphs(classes=400, seed=0),
        "test": mb.glyphs(classes=100, examples=60, seed=1),
    }
    data["digits"] = mb.digits()
    RUNS.mkdir(parents=True, exist_ok=True)
    jobs = [
        ("short", name, seed)
        for seed in range(PROTOCOL["seeds"]["short"])
        for name in LEARNERS
    ]
    jobs += [
        ("long", name, seed)
        for seed in range(PROTOCOL["seeds"]["long"])
        for name in LONG
    ]
    for length, name, seed in jobs:
        file = RUNS / f"{length}_{name}_seed{seed}.json"
        if file.exists():
            continue
        start = time.process_time()
        result = run(name, length, seed, data)
        result["seconds"] = round(time.process_time() - start, 1)
        file.write_text(json.dumps(result), "utf8")
        print(length, name, result, flush=True)


if __name__ == "__main__":
    main()
