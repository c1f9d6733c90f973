# SPDX-License-Identifier: MIT
"""Time architecture search: proposals on a table beside NNI and optuna, and two
hundred races of three strategies.

    python benchmarks/speed/nas.py

Everything takes a few minutes on one idle core. ``--work race`` measures what
begins with this name, anew, and ``--list`` names all. The table is
NAS-Bench-201's, read from $METABOOK_DATA/nas; looking an architecture up takes
part of a microsecond, so what is timed is the search itself. Every part runs in
a process of its own; the same line again goes on after the last finished one.
The result goes to metabook/book/results/speed_nas.json.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import parts
import peers_nas
import timing
import torch

import metabook as mb

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
from tables import made_up, nasbench201

EVALUATIONS = 500  # of every search
POPULATION = 50
OURS = "metabook, regularised evolution"
DIFFERENCES = {
    "NNI, EvolutionTuner": (
        "Another algorithm: of two random individuals the better has a child,"
        " and the worse dies. General spaces (nested choices, ranges of"
        " numbers), named parameters, trials known by numbers."
    ),
    "optuna": (
        "Spaces that the program defines as it asks, and that may change from"
        " trial to trial; every trial is kept with its times and distributions"
        " in a storage, here in memory; several processes may share a study."
    ),
    "optuna, NSGAIISampler": (
        "Generations of 50 with crossover, for several objectives."
    ),
    "optuna, TPESampler": (
        "Fits densities to all earlier trials before each proposal, so a"
        " proposal costs more the later it comes; meant for evaluations that"
        " take minutes."
    ),
}

Numbers = dict[str, Any]
Searching = Callable[[mb.nas.Table, int], list[float]]


def ask_and_tell(
    make: Callable[[mb.nas.SearchSpace], mb.nas.Strategy],
    table: mb.nas.Table,
    n: int,
) -> list[float]:
    """The scores of one search with a new strategy."""
    strategy, scores = make(table.space), []
    for _ in range(n):
        arch = strategy.ask()
        scores.append(table.valid(arch))
        strategy.tell(arch, scores[-1])
    return scores


@dataclass(frozen=True)
class Proposer:
    """Somebody's search, the peer that it needs, and how many searches in a row
    are timed together.
    """

    search: Searching
    needs: str = ""
    searches: int = 1


def of_optuna(sampler: str, **options: Any) -> Proposer:
    """With a fixed seed."""
    return Proposer(
        partial(peers_nas.optuna_sampler, sampler=sampler, seed=0, **options),
        "optuna",
    )


PROPOSERS = {
    OURS: Proposer(
        partial(
            ask_and_tell,
            lambda space: mb.nas.RegularizedEvolution(
                space, population=POPULATION, sample=10
            ),
        ),
        searches=20,
    ),
    "metabook, random search": Proposer(
        partial(ask_and_tell, mb.nas.RandomSearch), searches=20
    ),
    "NNI, EvolutionTuner": Proposer(
        partial(peers_nas.nni_evolution, population=POPULATION),
        "NNI",
        searches=4,
    ),
    "optuna, RandomSampler": of_optuna("RandomSampler"),
    "optuna, NSGAIISampler": of_optuna(
        "NSGAIISampler", population_size=POPULATION
    ),
    "optuna, TPESampler": of_optuna("TPESampler"),
}


def measure_proposals(
    table: Callable[[], mb.nas.Table],
    evaluations: int = EVALUATIONS,
    rounds: int = 10,
) -> Numbers:
    """Microseconds of a proposal that is looked up and told, for everyone in
    turn.
    """
    torch.set_num_threads(1)
    cells, replies = table(), peers_nas.found()

    def get_ready(proposer: Proposer) -> tuple[Numbers, timing.Step]:
        assert len(proposer.search(cells, evaluations)) == evaluations

        def several() -> None:
            for _ in range(proposer.searches):
                proposer.search(cells, evaluations)

        return dict(replies.get(proposer.needs, {})), several

    report, times = timing.compare(
        {name: partial(get_ready, who) for name, who in PROPOSERS.items()},
        {
            name: dict(replies[who.needs])
            for name, who in PROPOSERS.items()
            if "error" in replies.get(who.needs, {})
        },
        rounds,
        1,
        "proposals",
    )
    each = {
        name: seconds / PROPOSERS[name].searches / evaluations
        for name, seconds in times.items()
    }
    for name, seconds in each.items():
        low, median, high = 1e6 * np.quantile(seconds, [0.25, 0.5, 0.75])
        report[name] |= {
            "us": timing.digits(median),
            "us_quartiles": [timing.digits(low), timing.digits(high)],
            "per_second": round(1e6 / median),
        }
        if name != OURS:
            report[name]["evolution_is_faster"] = timing.ratio(
                seconds / each[OURS]
            )
    return {
        "threads": 1,
        "architectures": len(cells.space),
        "evaluations": evaluations,
        "implementations": report,
    }


RACERS: dict[str, Callable[[mb.nas.SearchSpace, int], mb.nas.Strategy]] = {
    "random search": lambda space, seed: mb.nas.RandomSearch(space, seed=seed),
    "evolution": lambda space, seed: mb.nas.RegularizedEvolution(
        space, population=POPULATION, sample=10, seed=seed
    ),
    "reinforce, independent": lambda space, seed: mb.nas.Reinforce(
        space, controller="independent", entropy=1.0, seed=seed
    ),
}


def measure_race(seeds: int = 200, rounds: int = 3) -> Numbers:
    """Seconds of processor time that all seeds of a strategy take in
    `metabook.nas.search`; the median of the rounds.
    """
    torch.set_num_threads(1)
    table = made_up()
    report = {}
    for name, make in RACERS.items():
        seconds = []
        for _ in range(rounds):
            start = time.process_time()
            for seed in range(seeds):
                mb.nas.search(
                    make(table.space, seed),
                    table.valid,
                    budget=EVALUATIONS,
                    progress=False,
                )
            seconds.append(time.process_time() - start)
        report[name] = {
            "seconds": round(float(np.median(seconds)), 2),
            "seconds_of_rounds": [round(s, 2) for s in seconds],
        }
    return {
        "threads": 1,
        "architectures": len(table.space),
        "seeds": seeds,
        "evaluations": EVALUATIONS,
        "seconds": round(sum(entry["seconds"] for entry in report.values()), 2),
        "strategies": report,
    }


def all_parts(quick: bool) -> dict[str, parts.Part]:
    """What a full run measures, by name."""
    proposals, race = partial(measure_proposals, nasbench201), measure_race
    if quick:
        proposals = partial(
            measure_proposals, made_up, evaluations=60, rounds=1
        )
        race = partial(measure_race, seeds=1, rounds=1)
    return {
        "proposals-1thread": parts.Part(proposals),
        "race-1thread": parts.Part(race),
    }


def merge(done: Numbers) -> Numbers:
    """One result from the parts."""
    return {
        "what": (
            "Architecture search in one thread. proposals: ask, look the"
            " architecture up in NAS-Bench-201, tell; searches of"
            f" {EVALUATIONS} evaluations, each with a new strategy or study,"
            " all implementations in turn in one process. us: median over"
            " rounds of the time of one proposal. evolution_is_faster: median"
            f" over rounds of this one's time over that of {OURS}, in the same"
            " round. race: every strategy of the chapter's race with"
            " metabook.nas.search, memory and history included, in processor"
            " time; the LSTM controller is not in it. Its accuracies are"
            " made up."
        ),
        "differences": DIFFERENCES,
        "peers": peers_nas.found(),
        "works": done,
    }


if __name__ == "__main__":
    sys.exit(
        parts.run(
            __file__,
            __doc__,
            "speed_nas",
            all_parts,
            ["nas"],
            peers_nas.prepare,
            merge,
        )
    )
