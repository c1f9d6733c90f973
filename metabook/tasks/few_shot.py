# SPDX-License-Identifier: MIT
"""N-way K-shot classification tasks, drawn from labelled images. Taught in
section 2.1 of the book.
"""

from typing import Any

import numpy as np
import torch

from metabook.data.images import LabelledImages
from metabook.data.random import random_bits, random_choice
from metabook.data.settings import described
from metabook.tasks.episode import Episode

__all__ = ["FewShotTasks"]


class FewShotTasks:
    """Endless few-shot tasks: task i is a function of ``(seed, i)`` alone.

    A task draws ``way`` distinct classes, gives them the labels 0 to ``way -
    1`` in random order, and draws ``shot + query`` distinct examples of each:
    the first ``shot`` are its support set, the rest its query set.

    Parameters
    ----------
    images : LabelledImages
    way : int
        Classes a task (N).
    shot : int
        Support examples a class (K).
    query : int
        Query examples a class.
    seed : int
        Another seed, another stream of tasks.

    Raises
    ------
    ValueError
        If there are fewer classes than ``way``, or a class has too few
        examples.

    References
    ----------
    Vinyals et al., *Matching Networks for One Shot Learning*, 2016,
    https://arxiv.org/abs/1606.04080

    Examples
    --------
    >>> import metabook as mb
    >>> tasks = mb.FewShotTasks(
    ...     mb.glyphs(classes=20, seed=0), way=5, shot=1, query=3, seed=0
    ... )
    >>> tasks.sample(2)
    Episode(2 tasks, support 5 x (1, 28, 28), query 15 x (1, 28, 28))
    >>> torch.equal(
    ...     tasks.sample(1, start=7).query_x[0], tasks.sample(8).query_x[7]
    ... )
    True
    """

    def __init__(
        self,
        images: LabelledImages,
        way: int,
        shot: int,
        query: int = 15,
        seed: int = 0,
    ) -> None:
        for name, value in (("way", way), ("shot", shot), ("query", query)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if way > len(images.names):
            raise ValueError(
                f"a {way}-way task needs {way} classes; these images have"
                f" {len(images.names)}"
            )
        smallest = int(np.argmin(images.counts))
        if images.counts[smallest] < shot + query:
            raise ValueError(
                f"class {images.names[smallest]!r} has"
                f" {images.counts[smallest]} examples; {shot}-shot with {query}"
                f" queries needs {shot + query}"
            )
        self.images, self.way, self.shot, self.query, self.seed = (
            images,
            way,
            shot,
            query,
            seed,
        )

    def __repr__(self) -> str:
        return (
            f"FewShotTasks({self.way}-way, {self.shot}-shot, {self.query}"
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
        }

    def sample(self, tasks: int, start: int = 0) -> Episode:
        """Draw tasks ``start`` to ``start + tasks - 1``.

        Returns
        -------
        Episode
            ``support_x`` (T, way * shot, C, H, W) in [0, 1], class by class;
            labels 0 to ``way - 1``.
        """
        rows = self.indices(tasks, start)  # (T, way, shot + query)
        labels = torch.arange(self.way)[:, None].expand(
            -1, self.shot + self.query
        )

        def part(columns: slice) -> tuple[torch.Tensor, torch.Tensor]:
            chosen = torch.from_numpy(rows[:, :, columns].reshape(tasks, -1))
            return (
                self.images.pixels(chosen),
                labels[:, columns]
                .reshape(1, -1)
                .expand(tasks, -1)
                .contiguous(),
            )

        return Episode(*part(slice(self.shot)), *part(slice(self.shot, None)))

    def indices(self, tasks: int, start: int = 0) -> np.ndarray:
        """The rows of ``images`` that `sample` takes, (T, way, shot + query):
        which drawings, of which classes.
        """
        task = random_bits(self.seed, start + np.arange(tasks))
        classes = random_choice(
            random_bits(task, 0), len(self.images.names), self.way
        )  # (T, way)
        seeds = random_bits(task[:, None], 1 + np.arange(self.way)).reshape(-1)
        examples = random_choice(
            seeds,
            self.images.counts[classes].reshape(-1),
            self.shot + self.query,
        )
        return self.images.offsets[classes][:, :, None] + examples.reshape(
            tasks, self.way, -1
        )
