# SPDX-License-Identifier: MIT
"""Tables of architectures: NAS-Bench-201, one that is made up, and the tasks of
the embedded one.
"""

import os
from pathlib import Path
from random import Random

import metabook as mb
from metabook.nas import candidates

Tasks = tuple[mb.FewShotTasks, mb.FewShotTasks, mb.FewShotTasks]


def nasbench201(dataset: str = "cifar10") -> mb.nas.Table:
    """From the folder that METABOOK_DATA names."""
    folder = Path(os.environ.get("METABOOK_DATA", ".")) / "nas"
    return mb.nas.load_nasbench201(
        folder / "nasbench201_compact.npz", dataset=dataset
    )


def made_up() -> mb.nas.Table:
    """The space of the embedded table with accuracies out of a hat: how long a
    search takes does not depend on them.
    """
    space, rng = mb.nas.glyph_space(), Random(0)
    scores = [80 + rng.gauss(0, 3) for _ in space]
    return mb.nas.Table(space, valid={1: scores}, test=scores)


def glyph_tasks(quick: bool) -> Tasks:
    """Those of the embedded table, to train, to validate and to test; or a few
    characters for each.
    """
    if not quick:
        return candidates.glyph_tasks()
    images = mb.glyphs(classes=60, examples=6, size=candidates.SIZE, seed=0)
    train, valid, test = (
        mb.FewShotTasks(part, way=20, shot=1, query=5, seed=i)
        for i, part in enumerate(images.split(1 / 3, 1 / 3, 1 / 3, seed=0))
    )
    return train, valid, test
