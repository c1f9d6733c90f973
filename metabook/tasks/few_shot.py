# SPDX-License-Identifier: MIT
"""N-way K-shot classification tasks, drawn from labelled images.

Taught in section 2.1 of the book.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from metabook.data.images import LabelledImages
from metabook.data.random import check_seed, random_bits, random_choice
from metabook.data.settings import described
from metabook.tasks.episode import Episode
from metabook.tasks.transform import Transform, transformed

__all__ = ["FewShotTasks"]


class FewShotTasks:
    """Endless few-shot tasks: task i is a function of ``(seed, i)`` alone.

    A task draws ``way`` distinct classes, gives them the labels 0 to
    ``way - 1`` in random order, and draws ``shot + query`` distinct examples of
    each: the first ``shot`` are its support set, the rest its query set.

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
    transform : callable, optional
        Maps the examples of one task, (N, C, H, W) with the support set first,
        to what the network sees: augmentation, normalisation. It may use the
        global random numbers of torch, numpy or Python: a task has its own.

    Raises
    ------
    ValueError
        If there are fewer classes than ``way``, a class has too few examples
        (``images.at_least`` leaves such classes out), or the seed is no integer
        from 0.

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
        *,
        seed: int = 0,
        transform: Transform | None = None,
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
        needed = shot + query
        if images.counts[smallest] < needed:
            raise ValueError(
                f"class {images.names[smallest]!r} has"
                f" {images.counts[smallest]} examples; {shot}-shot with {query}"
                f" queries needs {needed}: images.at_least({needed})"
                " leaves such classes out"
            )
        self.images, self.way, self.shot, self.query = images, way, shot, query
        self.seed, self.transform = check_seed(seed), transform
        self._names = np.array(images.names, dtype=object)

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
            "transform": described(self.transform, "transform"),
        }

    def sample(self, tasks: int, start: int = 0) -> Episode:
        """Draw tasks ``start`` to ``start + tasks - 1``.

        Returns
        -------
        Episode
            ``support_x`` (T, way * shot, C, H, W) in [0, 1], or what the
            transform makes of it, class by class; labels 0 to ``way - 1``.
        """
        rows = self.indices(tasks, start)  # (T, way, shot + query)
        classes = self.images.labels.numpy()[rows[:, :, 0]]  # (T, way)
        labels = torch.arange(self.way)[:, None]

        def part(rows: np.ndarray) -> tuple[Tensor, Tensor]:
            chosen = torch.from_numpy(rows.reshape(tasks, -1))
            return (
                self.images.pixels(chosen),
                labels.expand(rows.shape).reshape(tasks, -1).contiguous(),
            )

        support_x, support_y = part(rows[:, :, : self.shot])
        query_x, query_y = part(rows[:, :, self.shot :])
        if self.transform is not None:
            support_x, query_x = transformed(
                self.transform, support_x, query_x, self.seed, start
            )
        return Episode(
            support_x,
            support_y,
            query_x,
            query_y,
            class_names=tuple(map(tuple, self._names[classes].tolist())),
        )

    def indices(self, tasks: int, start: int = 0) -> np.ndarray:
        """The rows of ``images`` that `sample` takes, (T, way, shot + query):
        which drawings, of which classes.
        """
        task = random_bits(self.seed, start + np.arange(tasks))
        # (T, way)
        classes = random_choice(
            random_bits(task, 0), len(self.images.names), self.way
        )
        seeds = random_bits(task[:, None], 1 + np.arange(self.way)).reshape(-1)
        counts = self.images.counts[classes].reshape(-1)
        examples = random_choice(seeds, counts, self.shot + self.query)
        first = self.images.offsets[classes][:, :, None]
        return first + examples.reshape(tasks, self.way, -1)
