# SPDX-License-Identifier: MIT
"""Train every network of `metabook.nas.glyph_space`: three seeds, two budgets.
The embedded table comes from here.

    python benchmarks/glyph_table.py            # an hour of one core; the work is shared by two

A training is that of `metabook.nas.candidates`: 20-way 1-shot, 200 iterations
or 50. What is validated are 500 tasks of other characters; after the full
training, 2,000 test tasks of others again. Each training is one line of
runs/glyph_table.jsonl: run the same command again to resume. The result goes to
metabook/nas/glyph_table.json.
"""

import argparse
import json
import multiprocessing
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from tqdm import tqdm

import metabook as mb
from metabook.book import results
from metabook.book.reproduce import keep_freed_memory
from metabook.nas import Architecture, glyph_space
from metabook.nas.candidates import (
    TrainAndScore,
    glyph_network,
    glyph_tasks,
    score,
)
from metabook.nas.proxies import multiply_adds, parameter_count

BUDGETS = (50, 200)  # iterations
SEEDS = (0, 1, 2)
VALID_EPISODES, TEST_EPISODES = 500, 2000
LOG = Path("runs") / "glyph_table.jsonl"

Job = tuple[Architecture, int, int]  # architecture, budget, seed


def run(job: Job) -> dict[str, Any]:
    """One training."""
    arch, budget, seed = job
    tasks, valid, test = glyph_tasks()
    evaluate = TrainAndScore(glyph_network, tasks, valid, budget, seed=seed)
    clock = time.process_time()
    learner = evaluate.train(arch)
    seconds = time.process_time() - clock
    line = {
        "arch": arch,
        "budget": budget,
        "seed": seed,
        "seconds": round(seconds, 2),
    }
    line["valid"] = round(100 * score(learner, valid, VALID_EPISODES).mean, 2)
    if budget == max(BUDGETS):
        line["test"] = round(100 * score(learner, test, TEST_EPISODES).mean, 2)
    return line


def set_up() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()


def done() -> dict[Job, dict[str, Any]]:
    """The trainings in the file; a line that was cut off does not count."""
    lines = {}
    for text in LOG.read_text("utf8").splitlines() if LOG.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        lines[tuple(line["arch"]), line["budget"], line["seed"]] = line
    return lines


def train_all(workers: int) -> dict[Job, dict[str, Any]]:
    # the first seed of every network first: a run that is stopped early is of
    # use
    jobs = [
        (arch, budget, seed)
        for seed in SEEDS
        for budget in reversed(BUDGETS)
        for arch in glyph_space()
    ]
    known = done()
    todo = [job for job in jobs if job not in known]
    LOG.parent.mkdir(exist_ok=True)
    with (
        multiprocessing.get_context("spawn").Pool(workers, set_up) as pool,
        LOG.open("a", encoding="utf8") as log,
    ):
        log.write("\n" if known else "")  # after a line that was cut off
        for line in tqdm(
            pool.imap_unordered(run, todo),
            total=len(jobs),
            initial=len(known),
            desc="trainings",
        ):
            log.write(json.dumps(line) + "\n")
            log.flush()
    return done()


def table(lines: dict[Job, dict[str, Any]]) -> dict[str, Any]:
    """Columns in the order of the space; accuracies (architectures, seeds)."""
    image = torch.zeros(1, 1, 16, 16)
    columns: dict[str, list[Any]] = defaultdict(list)
    for arch in glyph_space():
        network = glyph_network(arch)
        columns["parameters"].append(parameter_count(network))
        columns["multiply_adds"].append(multiply_adds(network, image))
        for budget in BUDGETS:
            of_budget = [lines[arch, budget, seed] for seed in SEEDS]
            columns[f"valid_{budget}"].append(
                [line["valid"] for line in of_budget]
            )
            columns[f"seconds_{budget}"].append(
                round(
                    float(np.median([line["seconds"] for line in of_budget])), 2
                )
            )
        columns["test"].append(
            [lines[arch, max(BUDGETS), seed]["test"] for seed in SEEDS]
        )
    return dict(columns)


def rank_correlation(columns: dict[str, list[Any]], budget: int) -> float:
    """Spearman's, of one seed's validation with another's; the mean of the
    three pairs.
    """
    matrix = spearmanr(np.array(columns[f"valid_{budget}"])).statistic
    return round(float(matrix[np.triu_indices(len(SEEDS), 1)].mean()), 3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workers", type=int, default=2)
    lines = train_all(parser.parse_args().workers)
    columns = table(lines)
    path = results.save(
        "glyph_table",
        {
            "command": "python benchmarks/glyph_table.py",
            "task": (
                "prototypical networks, 20-way 1-shot with 5 queries a class,"
                " glyphs of 16 x 16 pixels"
            ),
            "protocol": (
                f"500 characters to train, 250 to validate ({VALID_EPISODES}"
                f" episodes), 250 to test ({TEST_EPISODES:,} episodes); one"
                " task an iteration, Adam from 0.003 along half a cosine to"
                " zero"
            ),
            "budgets": list(BUDGETS),
            "seeds": list(SEEDS),
            "seconds": "of processor time, the median of the seeds, one thread",
            "core_minutes": round(
                sum(line["seconds"] for line in lines.values()) / 60, 1
            ),
            "rank_correlation_of_seeds": {
                str(budget): rank_correlation(columns, budget)
                for budget in BUDGETS
            },
            "table": columns,
        },
        folder=Path(mb.nas.__file__).parent,
    )
    print(f"written: {path}")


if __name__ == "__main__":
    main()
