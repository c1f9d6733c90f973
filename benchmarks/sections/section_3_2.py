# SPDX-License-Identifier: MIT
"""What is a short, real search worth? Twenty searches, and what they found
trained fully beside what they did not.

    python benchmarks/sections/section_3_2.py

About twenty minutes of one core; run the same line again to resume. Search and
final training see training and validation characters alone; what is reported
are tasks of test characters. The result goes to
metabook/book/results/section_3_2.json.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import metabook as mb
from metabook.nas.candidates import TrainAndScore, glyph_network, score

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
import command
from cache import Cache
from measures import ci95, mean_ci95
from tables import Tasks, glyph_tasks

PROTOCOL = {
    "task": (
        "the embedded table's: prototypical networks, 20-way 1-shot with 5"
        " queries a class, glyphs of 16 x 16 pixels"
    ),
    "search": {
        "population": 6,
        "sample": 4,
        "evaluations": 20,
        "iterations": 50,
        "episodes": 200,
    },
    "final": {"iterations": 600, "test_episodes": 2000},
    "bill": (
        "hand_with_the_bill trains for the iterations of the search on top: 600"
        " + 20 * 50"
    ),
    "again": (
        "the winner's validation accuracy, of another training of 50"
        " iterations, on the same validation tasks"
    ),
    "seeds": list(range(20)),
    "note": (
        "seed s sets the search and its initial weights; final trainings have"
        " initial weights and tasks of their own, 1000 + s, the same for all"
        " networks"
    ),
    "long": {"iterations": 3000, "seeds": list(range(5))},
}
TINY = {
    "search": {
        "population": 2,
        "sample": 2,
        "evaluations": 2,
        "iterations": 1,
        "episodes": 2,
    },
    "final": {"iterations": 1, "test_episodes": 2},
    "seeds": [0, 1],
    "long": {"iterations": 2, "seeds": [0, 1]},
}
HAND = ("conv3",) * 4

Numbers = dict[str, Any]


def measure(protocol: Numbers, cache: Cache, quick: bool) -> Numbers:
    """All seeds, and what they say together."""
    table = mb.nas.glyph_table()
    others = {
        "hand": HAND,
        "median": sorted(table.space, key=table.test)[len(table.space) // 2],
        "best": table.best,  # after 200 iterations; no search can know it
    }
    tasks = glyph_tasks(quick)
    lines = [
        run(seed, protocol, cache, others, tasks) for seed in protocol["seeds"]
    ]
    longer = [line for line in lines if "test_long" in line]
    return {
        **others,
        "test": each(lines, "test"),
        "found_minus": found_minus(lines, "test"),
        "test_long": each(longer, "test_long"),
        "found_minus_long": found_minus(longer, "test_long"),
        "winners_curse": summary(
            [line["valid"] - line["again"] for line in lines]
        ),
        "runs": lines,
    }


def run(
    seed: int,
    protocol: Numbers,
    cache: Cache,
    others: dict[str, mb.nas.Architecture],
    tasks: Tasks,
) -> Numbers:
    """All that one seed gives."""
    search, final, longer = (
        protocol[part] for part in ("search", "final", "long")
    )
    line = {"seed": seed, **cache(f"find_{seed}", find, seed, search, tasks)}
    networks = {"found": tuple(line["found"]), **others}

    def test(name: str, iterations: int) -> float:
        return cache(
            f"{name}_{iterations}_{seed}",
            final_test,
            networks[name],
            seed,
            iterations,
            final["test_episodes"],
            tasks,
        )

    bill = search["evaluations"] * search["iterations"]
    line["test"] = {name: test(name, final["iterations"]) for name in networks}
    line["test"]["hand_with_the_bill"] = test(
        "hand", final["iterations"] + bill
    )
    if seed in longer["seeds"]:
        line["test_long"] = {
            name: test(name, longer["iterations"]) for name in networks
        }
    return line


def find(seed: int, settings: Numbers, tasks: Tasks) -> Numbers:
    """One search that trains what it proposes, and how its winner does when it
    is trained the same way again.
    """
    train, valid, _ = tasks
    strategy = mb.nas.RegularizedEvolution(
        mb.nas.glyph_space(),
        population=settings["population"],
        sample=settings["sample"],
        seed=seed,
    )
    evaluate = TrainAndScore(
        glyph_network,
        train,
        valid,
        iterations=settings["iterations"],
        episodes=settings["episodes"],
        seed=seed,
    )
    result = mb.nas.search(
        strategy, evaluate, budget=settings["evaluations"], progress=False
    )
    evaluate.seed = 1000 + seed
    return {
        "found": result.best,
        "valid": round(result.score, 2),
        "again": round(evaluate(result.best), 2),
    }


def final_test(
    arch: mb.nas.Architecture,
    seed: int,
    iterations: int,
    episodes: int,
    tasks: Tasks,
) -> float:
    """Test accuracy in percent after a training of its own."""
    train, valid, test = tasks
    others = mb.FewShotTasks(
        train.images,
        way=train.way,
        shot=train.shot,
        query=train.query,
        seed=1000 + seed,
    )
    learner = TrainAndScore(
        glyph_network, others, valid, iterations=iterations, seed=1000 + seed
    ).train(arch)
    return round(100 * score(learner, test, episodes).mean, 2)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Mean with its interval over seeds, and the band in which one more seed
    lies 95 times in 100.
    """
    band = ci95(values) * math.sqrt(len(values) + 1)
    return mean_ci95(values) | {"band": round(band, 2)}


def each(lines: Sequence[Numbers], key: str) -> Numbers:
    """Of every network."""
    return {
        name: summary([line[key][name] for line in lines])
        for name in lines[0][key]
    }


def found_minus(lines: Sequence[Numbers], key: str) -> Numbers:
    """Found minus each other network, seed by seed."""
    return {
        name: summary([line[key]["found"] - line[key][name] for line in lines])
        for name in lines[0][key]
        if name != "found"
    }


if __name__ == "__main__":
    command.run(__file__, __doc__, PROTOCOL, TINY, measure)
