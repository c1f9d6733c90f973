# SPDX-License-Identifier: MIT
"""Does a Euclidean prototypical network beat one that compares by the cosine?
Nine learners, five seeds each.

    python benchmarks/section_4_2.py                 # about ten minutes of one core; run it again to resume

Every run is short: 300 training tasks. Each learner has the learning rate that
is best on validation characters with seed 0. The result goes to
metabook/book/results/section_4_2.json.
"""

import functools
import json
from pathlib import Path

import torch

import metabook as mb
from metabook.book import results

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
RUNS = Path("runs")


@functools.cache
def characters() -> tuple[mb.LabelledImages, ...]:
    """Training, validation and test characters."""
    data = PROTOCOL["data"]
    return mb.glyphs(classes=data["glyphs"], seed=data["seed"]).split(
        *data["split"], seed=data["seed"]
    )


def run(name: str, lr: float, seed: int) -> dict[str, object]:
    """Train one learner, and measure it on validation and on test characters."""
    training, valid, test = (
        PROTOCOL[part] for part in ("training", "valid", "test")
    )
    torch.manual_seed(seed)
    learner = mb.ProtoNet(mb.Conv4(width=16), **LEARNERS[name])
    tasks = mb.FewShotTasks(
        characters()[0],
        training["way"],
        training["shot"],
        training["query"],
        seed=seed,
    )
    history = mb.train(
        learner,
        tasks,
        training["iterations"],
        training["tasks_per_batch"],
        lr=lr,
        progress=False,
    )

    def accuracy(images: mb.LabelledImages, of: dict, shot: int) -> float:
        tasks = mb.FewShotTasks(
            images, of["way"], shot, of["query"], seed=of["seed"]
        )
        return round(100 * mb.evaluate(learner, tasks, of["episodes"]).mean, 3)

    return {
        "seed": seed,
        "valid": accuracy(characters()[1], valid, valid["shot"]),
        "test": [
            accuracy(characters()[2], test, shot) for shot in test["shots"]
        ],
        "loss": round(
            sum(history.losses[-50:]) / 50, 4
        ),  # in training, over the last 50 tasks
        "temperature": round(learner.log_temperature.exp().item(), 4),
    }


def kept(name: str, lr: float, seed: int) -> dict:
    """The result of a run, from its file if it is there."""
    file = (
        RUNS
        / f"section_4_2_{name.replace(', ', '_').replace(' ', '_')}_{lr}_{seed}.json"
    )
    if not file.exists():
        file.write_text(json.dumps(run(name, lr, seed)))
    result = json.loads(file.read_text())
    print(f"{name}, lr {lr}: {result}", flush=True)
    return result


def main() -> None:
    torch.set_num_threads(1)  # the images are small
    RUNS.mkdir(exist_ok=True)
    learners = {}
    first, *others = PROTOCOL["seeds"]
    for name in LEARNERS:
        valid = {lr: kept(name, lr, first)["valid"] for lr in PROTOCOL["lrs"]}
        lr = max(valid, key=valid.get)
        learners[name] = {
            "lr": lr,
            "valid": valid,
            "runs": [kept(name, lr, seed) for seed in (first, *others)],
        }
    command = {"command": "python benchmarks/section_4_2.py"}
    print(
        "written:"
        f" {results.save('section_4_2', command | PROTOCOL | {'learners': learners})}"
    )


if __name__ == "__main__":
    main()
