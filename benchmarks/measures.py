# SPDX-License-Identifier: MIT
"""Measuring, and the numbers of a result: accuracies in percent, means with
their intervals.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import metabook as mb
from metabook.training.scores import half_width


def percent(score: mb.Score, digits: int = 2) -> dict[str, float]:
    """Accuracy with its 95 % interval."""
    return {
        "accuracy": round(100 * score.mean, digits),
        "ci95": round(100 * score.ci95, digits),
    }


def mean_ci95(
    values: Sequence[float] | np.ndarray, digits: int = 2
) -> dict[str, float]:
    """The mean of independent values, with its 95 % t-interval."""
    return {
        "mean": round(float(np.mean(values)), digits),
        "ci95": round(ci95(values), digits),
    }


def ci95(values: Sequence[float] | np.ndarray) -> float:
    """How far that interval reaches to either side."""
    return half_width(np.asarray(values))


def embedded(
    learner: mb.Learner,
    images: mb.LabelledImages,
    way: int,
    shots: Sequence[int],
    test: dict[str, Any],
) -> dict[str, mb.Score]:
    """The score at each number of shots, on the tasks that the settings of the
    test name: queries a class, episodes and seed.
    """
    query, seed = test["query"], test["seed"]
    tasks = {
        str(shot): mb.FewShotTasks(images, way, shot, query, seed=seed)
        for shot in shots
    }
    return mb.evaluate_embedded(learner, tasks, test["episodes"])


def timed(make: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """What ``make(*args)`` returns, and the seconds of processor time."""
    start = time.process_time()
    result = make(*args)
    return result | {"seconds": round(time.process_time() - start, 1)}
