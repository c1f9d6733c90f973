# SPDX-License-Identifier: MIT
"""Episodes drawn ahead by other processes: a torch data set and its loader.
Taught in section 5.2 of the book.
"""

import itertools
import pickle
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from metabook.tasks.episode import Episode
from metabook.tasks.protocol import Tasks

__all__ = ["EpisodeDataset", "EpisodeLoader", "episode_loader"]

Sample = Episode | Sequence[Episode]


def episode_loader(
    tasks: Tasks,
    tasks_per_batch: int = 32,
    *,
    start: int = 0,
    batches: int | None = None,
    workers: int = 0,
) -> "EpisodeLoader":
    """A torch ``DataLoader`` of episodes: the same with workers as without.

    Batch i is ``tasks.sample(tasks_per_batch, start + i * tasks_per_batch)``.
    Drawing ahead pays where a transform takes longer than a training step.

    Parameters
    ----------
    tasks : Tasks
    tasks_per_batch : int
    start : int
        Number of the first task.
    batches : int, optional
        How many; endless unless given.
    workers : int
        Processes that draw. They are started afresh and not forked, since a
        fork of a process with threads may hang. They import the classes and
        functions that ``tasks`` is made of, so these stand in a module, and a
        program that asks for workers does so under ``if __name__ ==
        "__main__":``.

    Returns
    -------
    DataLoader
        With the attributes ``tasks``, ``tasks_per_batch`` and ``start``, by
        which training on it can be resumed.

    Raises
    ------
    ValueError
        If a number is out of its range, or the tasks cannot be sent to workers.

    Examples
    --------
    >>> import metabook as mb
    >>> tasks = mb.Sinusoids(shot=10, query=10, seed=0)
    >>> for episode in mb.episode_loader(tasks, 4, start=100, batches=2):
    ...     print(episode)
    Episode(4 tasks, support 10 x (1,), query 10 x (1,))
    Episode(4 tasks, support 10 x (1,), query 10 x (1,))
    """
    if not isinstance(tasks, Tasks):
        raise ValueError(
            f"tasks is a {type(tasks).__name__}; it must have a method"
            " sample(tasks, start), as mb.FewShotTasks has"
        )
    for name, value, least in (
        ("tasks_per_batch", tasks_per_batch, 1),
        ("start", start, 0),
        ("batches", 1 if batches is None else batches, 1),
        ("workers", workers, 0),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    return EpisodeLoader(
        EpisodeDataset(tasks, tasks_per_batch, start), batches, workers
    )


class EpisodeDataset(Dataset[Sample]):
    """Batches of tasks by number, without end.

    Examples
    --------
    >>> import metabook as mb
    >>> EpisodeDataset(mb.Sinusoids(), tasks_per_batch=4, start=100)[2]
    Episode(4 tasks, support 10 x (1,), query 10 x (1,))
    """

    def __init__(self, tasks: Tasks, tasks_per_batch: int, start: int) -> None:
        self.tasks, self.tasks_per_batch = tasks, tasks_per_batch
        self.start = start

    def __getitem__(self, batch: int) -> Sample:
        """Tasks ``start + batch * tasks_per_batch`` and on."""
        first = self.start + batch * self.tasks_per_batch
        return self.tasks.sample(self.tasks_per_batch, first)


class EpisodeLoader(DataLoader[Sample]):
    """What `episode_loader` returns."""

    def __init__(
        self, dataset: EpisodeDataset, batches: int | None, workers: int
    ) -> None:
        self.tasks, self.tasks_per_batch = (
            dataset.tasks,
            dataset.tasks_per_batch,
        )
        self.start, self.batches = dataset.start, batches
        super().__init__(
            dataset,
            batch_size=None,
            sampler=_Endless() if batches is None else range(batches),
            collate_fn=_as_it_is,
            num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
            # else each pass takes a number from the caller's own
            generator=torch.Generator(),
        )

    def after(self, batches: int) -> "EpisodeLoader":
        """A loader of the same batches without so many first ones, which are
        not drawn.
        """
        if batches == 0:
            return self
        size = self.tasks_per_batch
        start = self.start + batches * size
        left = None if self.batches is None else self.batches - batches
        return EpisodeLoader(
            EpisodeDataset(self.tasks, size, start), left, self.num_workers
        )

    def __iter__(self) -> Any:
        """Start again at the first batch."""
        try:
            return super().__iter__()
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise ValueError(
                f"these tasks cannot be sent to workers ({error}): put what"
                " they are made of, such as the transform, into a module as a"
                " class or by def, or use workers=0"
            ) from error


class _Endless(Iterable[int]):
    def __iter__(self) -> Iterator[int]:
        return itertools.count()


def _as_it_is(sample: Sample) -> Sample:
    return sample
