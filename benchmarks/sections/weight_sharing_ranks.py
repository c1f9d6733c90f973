# SPDX-License-Identifier: MIT
"""What the rankings of weight_sharing.py are worth, by the embedded table, and
what else one could have for their price.
"""

import json
import sys
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau, spearmanr

import metabook as mb

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
from measures import ci95, mean_ci95

Architectures = Sequence[mb.nas.Architecture]
Numbers = dict[str, Any]


def summary(
    space: Architectures, runs: dict[str, list[Numbers]], resamples: int
) -> Numbers:
    """Each method's ranks and its choices, and the yardsticks."""
    table = mb.nas.glyph_table()
    test = np.array([table.test(arch) for arch in space])
    methods = {
        method: of_method(method, several, space, test, resamples)
        for method, several in runs.items()
    }
    parameters = [table.cost(arch, "parameters") for arch in space]
    return {
        "methods": methods,
        "yardsticks": {
            "one_training_of_50_iterations": yardstick(space, 50),
            "one_training_of_200_iterations": yardstick(space, 200),
            "parameters": round(spearman(parameters, test), 3),
            "random_search_for_the_cost_of_paths": random_search(
                space, test, methods["paths"]["seconds"]
            ),
        },
        "table": {
            "best": round(float(test.max()), 2),
            "median": round(float(np.median(test)), 2),
        },
    }


def of_method(
    method: str,
    several: Sequence[Numbers],
    space: Architectures,
    test: np.ndarray,
    resamples: int,
) -> Numbers:
    """Its correlations with the table, and the networks it would choose."""
    scores = np.array([run["scores"] for run in several])
    seconds = [
        run["seconds_training"] + run["seconds_scoring"] for run in several
    ]
    found: Numbers = {
        "spearman": correlation(scores, test, spearman, resamples),
        "kendall": correlation(scores, test, kendall, resamples),
        "seconds": round(float(np.mean(seconds)), 1),
    }
    if method != "untrained":
        best = [space[int(row.argmax())] for row in scores]
        found["best_by_shared_weights"] = chosen(best, test)
        found["shared_accuracy_of_it"] = [
            round(float(row.max()), 2) for row in scores
        ]
    if method == "mixture":
        strongest = [tuple(run["strongest"]) for run in several]
        found["strongest"] = chosen(strongest, test)
        found["shares"] = [run["shares"] for run in several]
    return found


def chosen(archs: Architectures, test: np.ndarray) -> Numbers:
    """What the table says of the networks that a search returned."""
    accuracies = [mb.nas.glyph_table().test(arch) for arch in archs]
    networks = [
        {
            "architecture": arch,
            "test": round(accuracy, 2),
            "place": 1 + int((test > accuracy).sum()),
            "skips": list(arch).count("skip"),
        }
        for arch, accuracy in zip(archs, accuracies, strict=True)
    ]
    mean = mean_ci95([network["test"] for network in networks])
    return {
        "test": {"mean": mean["mean"], "ci95_seeds": mean["ci95"]},
        "networks": networks,
    }


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    return float(spearmanr(a, b).statistic)


def kendall(a: Sequence[float], b: Sequence[float]) -> float:
    return float(kendalltau(a, b).statistic)


def correlation(
    scores: np.ndarray,
    test: np.ndarray,
    of: Callable[[np.ndarray, np.ndarray], float],
    resamples: int,
) -> Numbers:
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
        "ci95_seeds": round(ci95(each), 3),
        "each": np.round(each, 3).tolist(),
    }


def yardstick(space: Architectures, budget: int) -> dict[str, float]:
    """The validation of one training of each network against the test of the
    others, and what all of them cost.
    """
    table = mb.nas.glyph_table()
    text = (files("metabook.nas") / "glyph_table.json").read_text("utf8")
    tests = dict(
        zip(table.space, json.loads(text)["table"]["test"], strict=True)
    )
    valid = [table.valid(arch, budget, seed=0) for arch in space]
    others = [np.mean(tests[arch][1:]) for arch in space]
    seconds = sum(table.cost(arch, f"seconds_{budget}") for arch in space)
    return {
        "spearman": round(spearman(valid, others), 3),
        "seconds": round(seconds),
    }


def random_search(
    space: Architectures, test: np.ndarray, seconds: float, runs: int = 10_000
) -> Numbers:
    """As many full trainings as the time allows, of random networks; the best
    by validation.
    """
    table = mb.nas.glyph_table()
    each = np.mean([table.cost(arch, "seconds_200") for arch in space])
    n = max(1, int(seconds / each))
    valid = np.array([table.valid(arch, 200, seed=0) for arch in space])
    drawn = np.random.default_rng(0).integers(len(space), size=(runs, n))
    best = valid[drawn].argmax(axis=1)[:, None]
    accuracies = test[np.take_along_axis(drawn, best, axis=1)[:, 0]]
    return {
        "trainings": n,
        "test": round(float(accuracies.mean()), 2),
        "sd": round(float(accuracies.std()), 2),
    }
