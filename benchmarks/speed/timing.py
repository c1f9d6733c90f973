# SPDX-License-Identifier: MIT
"""Timing several implementations fairly: in turn, in one process, round after
round.
"""

import gc
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from peers import reason
from tqdm import tqdm

Step = Callable[[], Any]
Numbers = dict[str, Any]


def compare(
    entrants: dict[str, Callable[[], tuple[Numbers, Step | None]]],
    missing: dict[str, Numbers],
    rounds: int,
    calls: int,
    name: str,
) -> tuple[dict[str, Numbers], dict[str, np.ndarray]]:
    """Let everyone get ready, and time those who are.

    An entrant returns what is known of it, and the step that is timed, if any.
    Who is missing is not asked, and who fails is reported with its error.
    Returns the reports, and the seconds of `time_in_turn`.
    """
    report: dict[str, Numbers] = {}
    steps: dict[str, Step] = {}
    for who, get_ready in entrants.items():
        if who in missing:
            report[who] = missing[who]
            continue
        try:
            report[who], step = get_ready()
        except Exception as failure:  # the others go on
            report[who], step = {"error": reason(failure)}, None
        if step is not None:
            steps[who] = step
    return report, time_in_turn(steps, rounds, calls, name)


def time_in_turn(
    steps: dict[str, Step], rounds: int, calls: int, name: str
) -> dict[str, np.ndarray]:
    """Seconds of every step in every round, after one round to warm up; who
    goes first changes with the round.
    """
    times: dict[str, list[float]] = {who: [] for who in steps}
    for i in tqdm(range(rounds + 1), desc=name, leave=False, disable=None):
        order = list(steps)[i % len(steps) :] + list(steps)[: i % len(steps)]
        for who in order:
            gc.collect()  # nobody pays for what another has left behind
            start = time.perf_counter()
            for _ in range(calls):
                steps[who]()
            times[who].append((time.perf_counter() - start) / calls)
    return {who: np.array(seconds[1:]) for who, seconds in times.items()}


def summary(times: dict[str, np.ndarray], reference: str) -> dict[str, Numbers]:
    """Median and quartiles in ms, and the reference's time over this one's."""
    entries = {}
    for name, seconds in times.items():
        low, median, high = 1e3 * np.quantile(seconds, [0.25, 0.5, 0.75])
        entries[name] = {
            "ms": digits(median),
            "ms_quartiles": [digits(low), digits(high)],
        }
        if reference in times:
            entries[name] |= ratio(times[reference] / seconds)
    return entries


def ratio(ratios: np.ndarray) -> Numbers:
    """Median over rounds of how many times faster than the reference, with a 95
    % bootstrap interval.
    """
    medians = np.median(
        np.random.default_rng(0).choice(ratios, (2000, len(ratios))), axis=1
    )
    low, high = np.quantile(medians, [0.025, 0.975])
    return {
        "speedup": digits(np.median(ratios)),
        "speedup_ci95": [digits(low), digits(high)],
    }


def digits(x: float) -> float:
    """Four significant digits."""
    return float(f"{x:.4g}")
