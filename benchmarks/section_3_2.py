# SPDX-License-Identifier: MIT
"""What is a short, real search worth? Twenty searches, and what they found
trained fully beside what they did not.

    python benchmarks/section_3_2.py          # about twenty minutes of one core; run it again to resume

Search and final training see training and validation characters alone; what is
reported are tasks of test characters. Each training is one file under
runs/section_3_2. The result goes to metabook/book/results/section_3_2.json.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import metabook as mb
from metabook.book import results
from metabook.nas.candidates import (
    TrainAndScore,
    glyph_network,
    glyph_tasks,
    score,
)
from metabook.training.scores import half_width

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
HAND = ("conv3",) * 4
BEST = mb.nas.glyph_table().best  # after 200 iterations; no search can know it
RUNS = Path("runs") / "section_3_2"


def median_of_table() -> mb.nas.Architecture:
    """The network that half of the others beat, by the table's test accuracy."""
    table = mb.nas.glyph_table()
    return sorted(table.space, key=table.test)[len(table.space) // 2]


def find(seed: int) -> dict[str, Any]:
    """One search that trains what it proposes, and how its winner does when it
    is trained the same way again.
    """
    tasks, valid, _ = glyph_tasks()
    settings = PROTOCOL["search"]
    strategy = mb.nas.RegularizedEvolution(
        mb.nas.glyph_space(),
        population=settings["population"],
        sample=settings["sample"],
        seed=seed,
    )
    evaluate = TrainAndScore(
        glyph_network,
        tasks,
        valid,
        settings["iterations"],
        settings["episodes"],
        seed=seed,
    )
    result = mb.nas.search(
        strategy, evaluate, settings["evaluations"], progress=False
    )
    evaluate.seed = 1000 + seed
    return {
        "found": result.best,
        "valid": round(result.score, 2),
        "again": round(evaluate(result.best), 2),
    }


def final_test(arch: mb.nas.Architecture, seed: int, iterations: int) -> float:
    """Test accuracy in percent after a training of its own."""
    tasks, valid, test = glyph_tasks()
    others = mb.FewShotTasks(
        tasks.images, tasks.way, tasks.shot, tasks.query, seed=1000 + seed
    )
    learner = TrainAndScore(
        glyph_network, others, valid, iterations, seed=1000 + seed
    ).train(arch)
    return round(
        100 * score(learner, test, PROTOCOL["final"]["test_episodes"]).mean, 2
    )


def kept(name: str, make: Callable[[], Any]) -> Any:
    """What ``make`` returns; from its file if it was made before."""
    file = RUNS / f"{name}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(make()), "utf8")
        print(name, file.read_text("utf8"), flush=True)
    return json.loads(file.read_text("utf8"))


def run(seed: int) -> dict[str, Any]:
    """All that one seed gives."""
    search, full, longer = (
        PROTOCOL["search"],
        PROTOCOL["final"]["iterations"],
        PROTOCOL["long"],
    )
    line = {"seed": seed, **kept(f"find_{seed}", lambda: find(seed))}
    networks = {
        "found": tuple(line["found"]),
        "hand": HAND,
        "median": median_of_table(),
        "best": BEST,
    }

    def test(name: str, arch: mb.nas.Architecture, iterations: int) -> float:
        return kept(
            f"{name}_{iterations}_{seed}",
            lambda: final_test(arch, seed, iterations),
        )

    line["test"] = {
        name: test(name, arch, full) for name, arch in networks.items()
    }
    bill = search["evaluations"] * search["iterations"]
    line["test"]["hand_with_the_bill"] = test("hand", HAND, full + bill)
    if seed in longer["seeds"]:
        line["test_long"] = {
            name: test(name, arch, longer["iterations"])
            for name, arch in networks.items()
        }
    return line


def summary(values: list[float]) -> dict[str, float]:
    """Mean with its 95 % t-interval over seeds, and the band in which one more
    seed lies 95 times in 100.
    """
    of_mean = half_width(np.array(values))
    band = of_mean * np.sqrt(len(values) + 1)
    return {
        "mean": round(float(np.mean(values)), 2),
        "ci95": round(of_mean, 2),
        "band": round(float(band), 2),
    }


def differences(
    lines: list[dict[str, Any]], key: str
) -> dict[str, dict[str, float]]:
    """Found minus each other network, seed by seed."""
    others = [name for name in lines[0][key] if name != "found"]
    return {
        name: summary([line[key]["found"] - line[key][name] for line in lines])
        for name in others
    }


def main() -> None:
    lines = [run(seed) for seed in PROTOCOL["seeds"]]
    longer = [line for line in lines if "test_long" in line]
    result = {
        "command": "python benchmarks/section_3_2.py",
        **PROTOCOL,
        "hand": HAND,
        "median": median_of_table(),
        "best": BEST,
        "test": {
            name: summary([line["test"][name] for line in lines])
            for name in lines[0]["test"]
        },
        "found_minus": differences(lines, "test"),
        "test_long": {
            name: summary([line["test_long"][name] for line in longer])
            for name in longer[0]["test_long"]
        },
        "found_minus_long": differences(longer, "test_long"),
        "winners_curse": summary(
            [line["valid"] - line["again"] for line in lines]
        ),
        "runs": lines,
    }
    print(f"written: {results.save('section_3_2', result)}")


if __name__ == "__main__":
    main()
