# SPDX-License-Identifier: MIT
"""The page "Your own classes": its network, trained on glyphs, on folders of
people's drawings from Omniglot.

    python benchmarks/own_classes.py     # a few minutes on one core

The drawings, black on white, are written as PNG files and read back by
image_folder, as a reader's own would be. The result goes to
metabook/book/results/ as JSON.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import metabook as mb
from metabook.book import results

SEEDS, EPISODES, CHARACTERS = (0, 1, 2), 200, 60


def trained(seed: int) -> tuple[mb.Learner, float]:
    """The first lines of the page, and the seconds that they took of one core."""
    torch.manual_seed(seed)
    start = time.process_time()
    learner = mb.ProtoNet(mb.Conv4(width=32))
    practice = mb.FewShotTasks(
        mb.glyphs(classes=1000, seed=seed), way=20, shot=1, query=5, seed=seed
    )
    mb.train(
        learner, practice, iterations=500, tasks_per_batch=1, progress=False
    )
    return learner, time.process_time() - start


def as_drawn(ink: np.ndarray) -> Image.Image:
    return Image.fromarray(255 - ink)


def on_grey_paper(ink: np.ndarray) -> Image.Image:
    """As a photograph of paper: nothing is white."""
    return Image.fromarray((170 - 0.55 * ink).astype(np.uint8))


def on_a_large_sheet(ink: np.ndarray) -> Image.Image:
    """The same drawing in the middle of a sheet with three times its side."""
    return Image.fromarray(255 - np.pad(ink, len(ink)))


def folder_of(
    characters: mb.LabelledImages, draw, folder: Path
) -> mb.LabelledImages:
    for c, (name, first, count) in enumerate(
        zip(
            characters.names, characters.offsets, characters.counts, strict=True
        )
    ):
        of_class = folder / f"{c:03d} {name.replace('/', ' ')}"
        of_class.mkdir(parents=True)
        for i in range(count):
            draw(characters.images[first + i, 0].numpy()).save(
                of_class / f"{i:02d}.png"
            )
    return mb.image_folder(folder)


def main() -> None:
    torch.set_num_threads(1)
    test = mb.omniglot(rotations=False, size=105).split()[2]
    some = test.subset(
        np.linspace(0, len(test.names) - 1, CHARACTERS).astype(int)
    )
    sources = {"digits": mb.digits()}
    for draw in (as_drawn, on_grey_paper, on_a_large_sheet):
        with tempfile.TemporaryDirectory() as folder:
            sources[draw.__name__] = folder_of(
                some, draw, Path(folder) / "drawings"
            )
    learners = {"pixels": [mb.NearestNeighbour()]}
    seconds = []
    for seed in SEEDS:
        learner, took = trained(seed)
        learners.setdefault("network", []).append(learner)
        seconds.append(took)
    measured = {}
    for source, images in sources.items():
        for shot in (1, 5) if source == "as_drawn" else (1,):
            tasks = mb.FewShotTasks(images, way=5, shot=shot, query=10, seed=0)
            for name, several in learners.items():
                scores = [
                    mb.evaluate(learner, tasks, EPISODES) for learner in several
                ]
                measured.setdefault(source, {}).setdefault(f"{shot}_shot", {})[
                    name
                ] = {
                    "accuracy": round(
                        100 * float(np.mean([s.mean for s in scores])), 1
                    ),
                    "of_each_seed": [round(100 * s.mean, 1) for s in scores],
                    "ci95": round(100 * max(s.ci95 for s in scores), 1),
                }
                print(
                    source,
                    shot,
                    name,
                    measured[source][f"{shot}_shot"][name],
                    flush=True,
                )
    path = results.save(
        "own_classes",
        {
            "command": "python benchmarks/own_classes.py",
            "task": (
                f"5-way, 10 queries a class, {CHARACTERS} of Omniglot's test"
                " characters, upright, from PNG files"
            ),
            "training": {
                "seeds": SEEDS,
                "iterations": 500,
                "way": 20,
                "core_seconds": round(max(seconds)),
            },
            "episodes": EPISODES,
            "ci95": "of the widest seed, over episodes",
            "measured": measured,
        },
    )
    print(path)


if __name__ == "__main__":
    main()
