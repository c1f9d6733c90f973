# SPDX-License-Identifier: MIT
"""The page "Your own classes": its network, trained on glyphs, on folders of
people's drawings from Omniglot.

    python benchmarks/sections/own_classes.py

A few minutes of one core; run the same line again to resume. The drawings,
black on white, are written as PNG files and read back by image_folder, as a
reader's own would be. The result goes to
metabook/book/results/own_classes.json.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import metabook as mb

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
import command
from cache import Cache

CHARACTERS = 60
PROTOCOL = {
    "task": (
        f"5-way, 10 queries a class, {CHARACTERS} of Omniglot's test"
        " characters, upright, from PNG files"
    ),
    "training": {"seeds": [0, 1, 2], "iterations": 500, "way": 20},
    "episodes": 200,
    "ci95": "of the widest seed, over episodes",
}
TINY = {"training": {"seeds": [0], "iterations": 1}, "episodes": 2}

Data = dict[str, mb.LabelledImages]
Numbers = dict[str, Any]


def measure(protocol: Numbers, cache: Cache, quick: bool) -> Numbers:
    """The network from every seed, beside the nearest drawing by its pixels."""
    training, episodes = protocol["training"], protocol["episodes"]
    if quick:
        characters = mb.glyphs(classes=5, examples=15, size=105, seed=1)
    else:
        characters = some_of_omniglot()
    data = {"digits": mb.digits()}
    for draw in (as_drawn, on_grey_paper, on_a_large_sheet):
        with tempfile.TemporaryDirectory() as folder:
            data[draw.__name__] = folder_of(
                characters, draw, Path(folder) / "drawings"
            )
    practice = 20 if quick else 1000
    runs = {
        "pixels": [
            cache("pixels", scores_of, mb.NearestNeighbour(), data, episodes)
        ],
        "network": [
            cache(
                f"network_seed{seed}",
                trained,
                practice,
                training,
                seed,
                data,
                episodes,
            )
            for seed in training["seeds"]
        ],
    }
    seconds = max(run["seconds"] for run in runs["network"])
    return {
        "training": training | {"core_seconds": round(seconds)},
        "measured": {
            source: {
                shots: {
                    name: together([run[source][shots] for run in several])
                    for name, several in runs.items()
                }
                for shots in runs["pixels"][0][source]
            }
            for source in data
        },
    }


def some_of_omniglot() -> mb.LabelledImages:
    test = mb.omniglot(rotations=False, size=105).split()[2]
    return test.subset(
        np.linspace(0, len(test.names) - 1, CHARACTERS).astype(int)
    )


def as_drawn(ink: np.ndarray) -> Image.Image:
    return Image.fromarray(255 - ink)


def on_grey_paper(ink: np.ndarray) -> Image.Image:
    """As a photograph of paper: nothing is white."""
    return Image.fromarray((170 - 0.55 * ink).astype(np.uint8))


def on_a_large_sheet(ink: np.ndarray) -> Image.Image:
    """The same drawing in the middle of a sheet with three times its side."""
    return Image.fromarray(255 - np.pad(ink, len(ink)))


def folder_of(
    characters: mb.LabelledImages,
    draw: Callable[[np.ndarray], Image.Image],
    folder: Path,
) -> mb.LabelledImages:
    """What image_folder makes of the drawings as files."""
    classes = zip(
        characters.names, characters.offsets, characters.counts, strict=True
    )
    for c, (name, first, count) in enumerate(classes):
        of_class = folder / f"{c:03d} {name.replace('/', ' ')}"
        of_class.mkdir(parents=True)
        for i in range(count):
            drawing = draw(characters.images[first + i, 0].numpy())
            drawing.save(of_class / f"{i:02d}.png")
    return mb.image_folder(folder)


def trained(
    classes: int, training: Numbers, seed: int, data: Data, episodes: int
) -> Numbers:
    """The first lines of the page, with the seconds that they take of one core,
    and the scores.
    """
    torch.manual_seed(seed)
    start = time.process_time()
    learner = mb.ProtoNet(mb.Conv4(width=32))
    practice = mb.FewShotTasks(
        mb.glyphs(classes=classes, seed=seed),
        way=training["way"],
        shot=1,
        query=5,
        seed=seed,
    )
    mb.train(
        learner,
        practice,
        iterations=training["iterations"],
        tasks_per_batch=1,
        progress=False,
    )
    seconds = time.process_time() - start
    return scores_of(learner, data, episodes) | {"seconds": seconds}


def scores_of(learner: mb.Learner, data: Data, episodes: int) -> Numbers:
    """Mean and 95 % interval on every source, in percent."""

    def accuracy(images: mb.LabelledImages, shot: int) -> dict[str, float]:
        tasks = mb.FewShotTasks(images, way=5, shot=shot, query=10, seed=0)
        score = mb.evaluate(learner, tasks, episodes=episodes)
        return {"mean": 100 * score.mean, "ci95": 100 * score.ci95}

    return {
        source: {
            f"{shot}_shot": accuracy(images, shot)
            for shot in ((1, 5) if source == "as_drawn" else (1,))
        }
        for source, images in data.items()
    }


def together(several: list[dict[str, float]]) -> Numbers:
    """The mean of the seeds."""
    means = [score["mean"] for score in several]
    return {
        "accuracy": round(float(np.mean(means)), 1),
        "of_each_seed": [round(mean, 1) for mean in means],
        "ci95": round(max(score["ci95"] for score in several), 1),
    }


if __name__ == "__main__":
    command.run(__file__, __doc__, PROTOCOL, TINY, measure)
