# SPDX-License-Identifier: MIT
"""How well do shared weights rank the 625 networks of the embedded table, each
of which was trained on its own?

    python benchmarks/weight_sharing.py       # about six minutes of one core; run again to resume

Two supernets a seed: one trained along random single paths, one as a mixture in
the manner of DARTS (first order). All networks are scored with the shared
weights on the table's validation tasks, and ranked; the truth is the table's
test accuracy, the mean of its trainings. What counts as the result of a search
is what the table says of the network that it returns: nowhere the accuracy with
shared weights. The result goes to metabook/book/results/weight_sharing.json.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr

import metabook as mb
from metabook.book import results
from metabook.book.reproduce import keep_freed_memory
from metabook.nas.candidates import glyph_tasks
from metabook.nas.supernet import (
    Supernet,
    shared_scores,
    train_mixture,
    train_paths,
)
from metabook.training.scores import half_width

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
ITERATIONS = {"paths": 2000, "mixture": 300}
RUNS = Path("runs") / "weight_sharing"


def run(method: str, seed: int) -> dict[str, Any]:
    """Train a supernet, and score all architectures with its weights."""
    tasks, valid, _ = glyph_tasks()
    supernet = Supernet(mb.nas.glyph_space(), seed=seed)
    clock = time.process_time()
    if method == "paths":
        # the seed chooses the stream of tasks too
        train_paths(
            supernet,
            mb.FewShotTasks(tasks.images, 20, 1, 5, seed=100 + seed),
            ITERATIONS[method],
            seed=seed,
        )
    if method == "mixture":
        classes = np.random.default_rng(seed).permutation(
            len(tasks.images.names)
        )
        halves = (
            tasks.images.subset(half) for half in np.array_split(classes, 2)
        )
        train_mixture(
            supernet,
            *(
                mb.FewShotTasks(half, 20, 1, 5, seed=100 + seed)
                for half in halves
            ),
            ITERATIONS[method],
        )
    trained = time.process_time()
    scores = shared_scores(supernet, tasks, valid)
    found: dict[str, Any] = {
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


def summary(
    table: mb.nas.Table, runs: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """What the rankings are worth, by the table."""
    space = list(table.space)
    test = np.array([table.test(arch) for arch in space])

    def of_table(arch: mb.nas.Architecture) -> dict[str, Any]:
        accuracy = table.test(arch)
        place = 1 + int((test > accuracy).sum())
        return {
            "architecture": arch,
            "test": round(accuracy, 2),
            "place": place,
            "skips": list(arch).count("skip"),
        }

    def found_by(archs: list[mb.nas.Architecture]) -> dict[str, Any]:
        networks = [of_table(arch) for arch in archs]
        accuracies = np.array([network["test"] for network in networks])
        mean = {
            "mean": round(float(accuracies.mean()), 2),
            "ci95_seeds": round(half_width(accuracies), 2),
        }
        return {"test": mean, "networks": networks}

    found: dict[str, Any] = {}
    for method, several in runs.items():
        scores = np.array([r["scores"] for r in several])
        entry: dict[str, Any] = {
            "spearman": correlation(
                scores, test, lambda a, b: spearmanr(a, b).statistic
            ),
            "kendall": correlation(
                scores, test, lambda a, b: kendalltau(a, b).statistic
            ),
            "seconds": round(
                float(
                    np.mean(
                        [
                            r["seconds_training"] + r["seconds_scoring"]
                            for r in several
                        ]
                    )
                ),
                1,
            ),
        }
        if method != "untrained":
            entry["best_by_shared_weights"] = found_by(
                [space[int(row.argmax())] for row in scores]
            )
            entry["shared_accuracy_of_it"] = [
                round(float(row.max()), 2) for row in scores
            ]
        if method == "mixture":
            entry["strongest"] = found_by(
                [tuple(r["strongest"]) for r in several]
            )
            entry["shares"] = [r["shares"] for r in several]
        found[method] = entry
    cost = found["paths"]["seconds"]
    return {
        "methods": found,
        "yardsticks": {
            "one_training_of_50_iterations": yardstick(table, 50),
            "one_training_of_200_iterations": yardstick(table, 200),
            "parameters": round(
                float(
                    spearmanr(
                        [table.cost(a, "parameters") for a in space], test
                    ).statistic
                ),
                3,
            ),
            "random_search_for_the_cost_of_paths": random_search(
                table, test, cost
            ),
        },
        "table": {
            "best": round(float(test.max()), 2),
            "median": round(float(np.median(test)), 2),
        },
    }


def correlation(
    scores: np.ndarray, test: np.ndarray, of: Any, resamples: int = 1000
) -> dict[str, Any]:
    """Mean over seeds, with both intervals."""
    each = np.array([of(row, test) for row in scores])
    rng = np.random.default_rng(0)
    draws = [rng.integers(len(test), size=len(test)) for _ in range(resamples)]
    means = [
        np.mean([of(row[draw], test[draw]) for row in scores]) for draw in draws
    ]
    return {
        "mean": round(float(each.mean()), 3),
        "ci95_architectures": [
            round(float(q), 3) for q in np.quantile(means, [0.025, 0.975])
        ],
        "ci95_seeds": round(half_width(each), 3),
        "each": np.round(each, 3).tolist(),
    }


def yardstick(table: mb.nas.Table, budget: int) -> dict[str, float]:
    """The validation of one training of each network against the test of the
    others, and what all of them cost.
    """
    valid = [table.valid(arch, budget, seed=0) for arch in table.space]
    others = np.array(results.load("glyph_table")["table"]["test"])[:, 1:].mean(
        axis=1
    )
    seconds = sum(table.cost(arch, f"seconds_{budget}") for arch in table.space)
    return {
        "spearman": round(float(spearmanr(valid, others).statistic), 3),
        "seconds": round(seconds),
    }


def random_search(
    table: mb.nas.Table, test: np.ndarray, seconds: float, runs: int = 10_000
) -> dict[str, Any]:
    """As many full trainings as the time allows, of random networks; the best
    by validation.
    """
    space = list(table.space)
    n = max(
        1,
        int(
            seconds
            / np.mean([table.cost(arch, "seconds_200") for arch in space])
        ),
    )
    valid = np.array([table.valid(arch, 200, seed=0) for arch in space])
    drawn = np.random.default_rng(0).integers(len(space), size=(runs, n))
    chosen = test[
        np.take_along_axis(drawn, valid[drawn].argmax(axis=1)[:, None], axis=1)[
            :, 0
        ]
    ]
    return {
        "trainings": n,
        "test": round(float(chosen.mean()), 2),
        "sd": round(float(chosen.std()), 2),
    }


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    RUNS.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[dict[str, Any]]] = {
        "untrained": [],
        "paths": [],
        "mixture": [],
    }
    for seed in PROTOCOL["seeds"]:
        for method, several in runs.items():
            file = RUNS / f"{method}_seed{seed}.json"
            if not file.exists():
                file.write_text(json.dumps(run(method, seed)), "utf8")
                print(f"trained: {method}, seed {seed}", flush=True)
            several.append(json.loads(file.read_text("utf8")))
    result = {
        "command": "python benchmarks/weight_sharing.py",
        **PROTOCOL,
        **summary(mb.nas.glyph_table(), runs),
    }
    print(f"written: {results.save('weight_sharing', result)}")


if __name__ == "__main__":
    main()
