# SPDX-License-Identifier: MIT
"""What the embedding in bfloat16 does to the accuracy of prototypical networks.

    python benchmarks/half_precision.py       # about five minutes of one core; run again to resume

Two trainings a seed, from the same weights on the same episodes, one of them
with ``embedding_dtype=torch.bfloat16``. Both are tested in float32, on the same
episodes. The result goes to metabook/book/results/half_precision.json.
"""

import json
import time
from pathlib import Path

import numpy as np
import torch

import metabook as mb
from metabook.book import results
from metabook.training.scores import Comparison, half_width

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
RUNS = Path("runs") / "half_precision"


def run(seed: int) -> dict[str, float]:
    """Accuracy in percent of both, their difference, and the seconds of
    processor time that each training took.
    """
    train, test = (
        mb.glyphs(classes=400, seed=0),
        mb.glyphs(classes=100, examples=60, seed=1),
    )
    setting, measure = PROTOCOL["training"], PROTOCOL["test"]
    tasks = mb.FewShotTasks(
        train, setting["way"], setting["shot"], setting["query"], seed=seed
    )
    scores, found = {}, {"seed": seed}
    for name, dtype in PRECISIONS.items():
        torch.manual_seed(seed)
        learner = mb.ProtoNet(mb.Conv4(), embedding_dtype=dtype)
        start = time.process_time()
        mb.train(
            learner,
            tasks,
            setting["iterations"],
            1,
            lr=setting["lr"],
            schedule=setting["schedule"],
        )
        found[f"{name}_seconds"] = round(time.process_time() - start, 1)
        exam = mb.FewShotTasks(
            test,
            measure["way"],
            measure["shot"],
            measure["query"],
            seed=measure["seed"],
        )
        scores[name] = mb.evaluate_embedded(learner, exam, measure["episodes"])
        found[name] = round(100 * scores[name].mean, 2)
    both = Comparison(scores["bfloat16"], scores["float32"])
    return found | {
        "difference": round(100 * both.mean, 3),
        "difference_ci95": round(100 * both.ci95, 3),
    }


def main() -> None:
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in range(PROTOCOL["seeds"]):
        file = RUNS / f"seed{seed}.json"
        if not file.exists():
            file.write_text(json.dumps(run(seed)), "utf8")
        runs.append(json.loads(file.read_text("utf8")))
        print(runs[-1], flush=True)
    differences = np.array([r["difference"] for r in runs])
    result = {
        "command": "python benchmarks/half_precision.py",
        **PROTOCOL,
        "difference": {
            "what": (
                "points of accuracy, bfloat16 minus float32: mean over seeds"
                " with its 95 % t-interval. A run's own difference_ci95 is over"
                " the shared test episodes."
            ),
            "mean": round(float(differences.mean()), 2),
            "ci95": round(half_width(differences), 2),
        },
        "runs": runs,
    }
    print(f"written: {results.save('half_precision', result)}")


if __name__ == "__main__":
    main()
