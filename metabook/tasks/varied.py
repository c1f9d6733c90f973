# SPDX-License-Identifier: MIT
"""Tasks of unequal size: another number of classes in each, another number of
examples for each class.

Taught in section 2.1 of the book.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from metabook.data.images import LabelledImages
from metabook.data.random import (
    check_seed,
    random_bits,
    random_choice,
    random_uniform,
)
from metabook.data.settings import described
from metabook.tasks.episode import Episode
from metabook.tasks.transform import Transform, transformed

__all__ = ["VariedTasks"]

# where the counters of way and shots begin; those of FewShotTasks are below
_SIZES = 2**32


class VariedTasks:
    """Endless classification tasks of varied way and shot: task i is a function
    of ``(seed, i)`` alone.

    A task draws its way, and each of its classes its own shot, both uniformly.
    Tasks of unequal size fit into no common tensor, so they come as a list.
    With one way and one shot they are the tasks of `FewShotTasks`.

    Parameters
    ----------
    images : LabelledImages
    way, shot : int or (int, int)
        Smallest and largest. A class with too few examples for its shot gives
        what the queries leave.
    query : int
        Query examples a class.
    seed : int
    transform : callable, optional
        As for `FewShotTasks`.

    Raises
    ------
    ValueError
        If there are fewer classes than the largest way, a class has too few
        examples for the smallest shot (``images.at_least`` leaves such classes
        out), or the seed is no integer from 0.

    References
    ----------
    Triantafillou et al., *Meta-Dataset*, 2020,
    https://arxiv.org/abs/1903.03096, where ways and shots vary by rules of
    their own.

    Examples
    --------
    >>> import metabook as mb
    >>> tasks = mb.VariedTasks(
    ...     mb.glyphs(classes=30, seed=0),
    ...     way=(5, 20),
    ...     shot=(1, 10),
    ...     query=3,
    ...     seed=0,
    ... )
    >>> [len(episode) for episode in tasks.sample(3)]
    [1, 1, 1]
    >>> torch.equal(
    ...     tasks.sample(1, start=7)[0].query_x, tasks.sample(8)[7].query_x
    ... )
    True
    """

    def __init__(
        self,
        images: LabelledImages,
        way: int | tuple[int, int] = (5, 20),
        shot: int | tuple[int, int] = (1, 10),
        query: int = 5,
        *,
        seed: int = 0,
        transform: Transform | None = None,
    ) -> None:
        self.way, self.shot = _range("way", way), _range("shot", shot)
        if query < 1:
            raise ValueError(f"query is {query}; it must be at least 1")
        if self.way[1] > len(images.names):
            raise ValueError(
                f"a {self.way[1]}-way task needs {self.way[1]} classes; these"
                f" images have {len(images.names)}"
            )
        smallest = int(np.argmin(images.counts))
        needed = self.shot[0] + query
        if images.counts[smallest] < needed:
            raise ValueError(
                f"class {images.names[smallest]!r} has"
                f" {images.counts[smallest]} examples; {self.shot[0]}-shot with"
                f" {query} queries needs {needed}: images.at_least({needed})"
                " leaves such classes out"
            )
        self.images, self.query = images, query
        self.seed, self.transform = check_seed(seed), transform

    def __repr__(self) -> str:
        (a, b), (c, d) = self.way, self.shot
        return (
            f"VariedTasks({a} to {b}-way, {c} to {d}-shot, {self.query}"
            f" queries, seed {self.seed}, {self.images})"
        )

    def settings(self) -> dict[str, Any]:
        """What tells these tasks from others."""
        return {
            "images": described(self.images),
            "way": self.way,
            "shot": self.shot,
            "query": self.query,
            "seed": self.seed,
            "transform": described(self.transform, "transform"),
        }

    def sample(self, tasks: int, start: int = 0) -> list[Episode]:
        """Draw tasks ``start`` to ``start + tasks - 1``, each an episode with
        T = 1 and labels from 0.
        """
        return [self._task(i) for i in range(start, start + tasks)]

    def _task(self, i: int) -> Episode:
        task = random_bits(self.seed, i)
        way = int(_between(self.way, random_uniform(task, _SIZES)))
        classes = random_choice(
            random_bits(task, [0]), len(self.images.names), way
        )[0]
        shots = _between(
            self.shot, random_uniform(task, _SIZES + 1 + np.arange(way))
        )
        shots = np.minimum(shots, self.images.counts[classes] - self.query)
        support, query = [], []
        for column, (c, shot) in enumerate(zip(classes, shots, strict=True)):
            chosen = random_choice(
                random_bits(task, [1 + column]),
                self.images.counts[c],
                shot + self.query,
            )[0]
            rows = torch.from_numpy(self.images.offsets[c] + chosen)
            support.append(rows[:shot])
            query.append(rows[shot:])

        def part(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
            labels = torch.cat(
                [torch.full((len(r),), column) for column, r in enumerate(rows)]
            )
            return self.images.pixels(torch.cat(rows))[None], labels[None]

        support_x, support_y = part(support)
        query_x, query_y = part(query)
        if self.transform is not None:
            support_x, query_x = transformed(
                self.transform, support_x, query_x, self.seed, i
            )
        names = tuple(self.images.names[c] for c in classes)
        return Episode(
            support_x, support_y, query_x, query_y, class_names=(names,)
        )


def _range(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    low, high = (value, value) if isinstance(value, int) else value
    if not 1 <= low <= high:
        raise ValueError(
            f"{name} is {value}; it is a number from 1, or a smallest and a"
            " largest one"
        )
    return low, high


def _between(ends: tuple[int, int], u: np.ndarray) -> np.ndarray:
    """Uniform numbers in (0, 1) as integers from one end to the other."""
    return ends[0] + (u * (ends[1] - ends[0] + 1)).astype(np.int64)
