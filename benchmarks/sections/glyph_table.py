# SPDX-License-Identifier: MIT
"""Train every network of `metabook.nas.glyph_space`: three seeds, two budgets.
The embedded table comes from here.

    python benchmarks/sections/glyph_table.py

An hour of one core, shared by all there are; run the same line again to resume.
A training is that of `metabook.nas.candidates`: 20-way 1-shot, 200 iterations
or 50. What is validated are 500 tasks of other characters; after the full
training, 2,000 test tasks of others again. The result goes to
metabook/nas/glyph_table.json.
"""

import os
import sys
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from tqdm import tqdm

import metabook as mb
from metabook.book.reproduce import keep_freed_memory
from metabook.nas import Architecture
from metabook.nas.candidates import TrainAndScore, glyph_network, score
from metabook.nas.proxies import multiply_adds, parameter_count

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
import command
from cache import Cache
from tables import glyph_tasks

VALID_EPISODES, TEST_EPISODES = 500, 2000
PROTOCOL = {
    "task": (
        "prototypical networks, 20-way 1-shot with 5 queries a class, glyphs of"
        " 16 x 16 pixels"
    ),
    "protocol": (
        f"500 characters to train, 250 to validate ({VALID_EPISODES} episodes),"
        f" 250 to test ({TEST_EPISODES:,} episodes); one task an iteration,"
        " Adam from 0.003 along half a cosine to zero"
    ),
    "budgets": [50, 200],  # iterations
    "seeds": [0, 1, 2],
    "seconds": "of processor time, the median of the seeds, one thread",
}
TINY = {"budgets": [1, 2]}

Job = tuple[Architecture, int, int]  # architecture, budget, seed
Numbers = dict[str, Any]


def measure(protocol: Numbers, cache: Cache, quick: bool) -> Numbers:
    """The table, and how alike its seeds rank."""
    space = mb.nas.glyph_space()
    if quick:
        space = mb.nas.SearchSpace(
            dict.fromkeys(space.decisions, ("skip",))
            | {"block1": ("conv1", "conv3")}
        )
    budgets, seeds = protocol["budgets"], protocol["seeds"]
    # the first seed of every network first: a run that is stopped early is of
    # use
    jobs = [
        (arch, budget, seed)
        for seed in seeds
        for budget in reversed(budgets)
        for arch in space
    ]
    lines = trained(jobs, cache, max(budgets), quick)
    columns = table(lines, space, budgets, seeds)
    minutes = sum(line["seconds"] for line in lines.values()) / 60
    return {
        "core_minutes": round(minutes, 1),
        "rank_correlation_of_seeds": {
            str(budget): rank_correlation(columns[f"valid_{budget}"])
            for budget in budgets
        },
        "table": columns,
    }


def trained(
    jobs: list[Job], cache: Cache, full: int, quick: bool
) -> dict[Job, Numbers]:
    """The trainings, those that are not kept on as many cores as there are."""
    todo = [job for job in jobs if cache.get(name_of(job)) is None]
    with ProcessPoolExecutor(
        1 if quick else os.cpu_count(), get_context("spawn"), set_up
    ) as pool:
        running = {pool.submit(run, job, full, quick): job for job in todo}
        for done in tqdm(
            as_completed(running),
            total=len(jobs),
            initial=len(jobs) - len(todo),
            desc="trainings",
            disable=None,
        ):
            cache.put(name_of(running[done]), done.result())
    return {job: cache.get(name_of(job)) for job in jobs}


def set_up() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()


def name_of(job: Job) -> str:
    arch, budget, seed = job
    return f"{'-'.join(map(str, arch))}_{budget}_seed{seed}"


def run(job: Job, full: int, quick: bool) -> Numbers:
    """One training; after a full one also its test."""
    arch, budget, seed = job
    train, valid, test = glyph_tasks(quick)
    of_valid, of_test = (20, 20) if quick else (VALID_EPISODES, TEST_EPISODES)
    evaluate = TrainAndScore(
        glyph_network, train, valid, iterations=budget, seed=seed
    )
    clock = time.process_time()
    learner = evaluate.train(arch)
    line = {"seconds": round(time.process_time() - clock, 2)}
    line["valid"] = round(100 * score(learner, valid, of_valid).mean, 2)
    if budget == full:
        line["test"] = round(100 * score(learner, test, of_test).mean, 2)
    return line


def table(
    lines: dict[Job, Numbers],
    space: mb.nas.SearchSpace,
    budgets: list[int],
    seeds: list[int],
) -> dict[str, list[Any]]:
    """Columns in the order of the space; accuracies (architectures, seeds)."""
    image = torch.zeros(1, 1, 16, 16)
    columns: dict[str, list[Any]] = defaultdict(list)
    for arch in space:
        network = glyph_network(arch)
        columns["parameters"].append(parameter_count(network))
        columns["multiply_adds"].append(multiply_adds(network, image))
        for budget in budgets:
            several = [lines[arch, budget, seed] for seed in seeds]
            seconds = float(np.median([line["seconds"] for line in several]))
            columns[f"seconds_{budget}"].append(round(seconds, 2))
            columns[f"valid_{budget}"].append(
                [line["valid"] for line in several]
            )
        full = [lines[arch, max(budgets), seed] for seed in seeds]
        columns["test"].append([line["test"] for line in full])
    return dict(columns)


def rank_correlation(accuracies: list[list[float]]) -> float:
    """Spearman's, of one seed's validation with another's; the mean of the
    pairs.
    """
    matrix = spearmanr(np.array(accuracies)).statistic
    pairs = matrix[np.triu_indices(len(matrix), 1)]
    return round(float(pairs.mean()), 3)


if __name__ == "__main__":
    command.run(
        __file__,
        __doc__,
        PROTOCOL,
        TINY,
        measure,
        folder=Path(mb.nas.__file__).parent,
    )
