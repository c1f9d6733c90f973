# SPDX-License-Identifier: MIT
"""The episodes that training sees, one batch an iteration: from tasks that know
them by number, from a loader of such tasks, or from any iterable.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from metabook.data.digests import digest, tensor_digest
from metabook.data.settings import settings
from metabook.tasks.episode import Episode, as_episodes
from metabook.tasks.loading import EpisodeLoader
from metabook.tasks.protocol import Tasks
from metabook.training.distributed import Processes

__all__ = ["Episodes", "Stream", "tasks_settings"]

Episodes: TypeAlias = Tasks | Iterable[Episode | Sequence[Episode]]


class Stream:
    """Iterates over the batches of a training.

    Parameters
    ----------
    tasks : Tasks or iterable
        Of tasks, iteration i gets numbers ``i * tasks_per_batch`` and the
        following; of an iterable, what comes.
    tasks_per_batch : int
        An iterable has batches of its own.
    processes : Processes
        Who share each batch; only this one's part of it comes.

    Attributes
    ----------
    indexed : Tasks, optional
        The tasks, if they are known by number, so that a run can go on in the
        middle: those with ``sample``, and those of an `episode_loader`.

    Raises
    ------
    TypeError
        If it is neither.
    """

    def __init__(
        self, tasks: Episodes, tasks_per_batch: int, processes: Processes
    ) -> None:
        self.source, self.tasks_per_batch = tasks, tasks_per_batch
        self.processes = processes
        self.indexed: Tasks | None = None
        self.first = 0
        if isinstance(tasks, Tasks):
            self.indexed = tasks
        elif isinstance(tasks, EpisodeLoader):
            self.indexed, self.first = tasks.tasks, tasks.start
            self.tasks_per_batch = tasks.tasks_per_batch
        elif not isinstance(tasks, Iterable):
            raise TypeError(
                f"tasks is a {type(tasks).__name__}; it must have"
                " sample(tasks, start), or be an iterable of episodes, such as"
                " itertools.repeat(episode)"
            )

    def settings(self) -> dict[str, Any]:
        """What tells the episodes from others, however they are loaded."""
        assert self.indexed is not None
        return {
            "tasks": tasks_settings(self.indexed, max(self.tasks_per_batch, 4)),
            "first_task": self.first,
            "tasks_per_batch": self.tasks_per_batch,
        }

    def start(self, done: int) -> Iterator[list[Episode]]:
        """The batches of iteration ``done`` and the following."""
        if isinstance(self.source, Tasks):
            return self._sampled(self.source, done)
        if isinstance(self.source, EpisodeLoader):
            return map(self._own, self.source.after(done))
        return map(self._own, self.source)

    def _own(self, sample: Episode | Sequence[Episode]) -> list[Episode]:
        return self.processes.part(as_episodes(sample))

    def _sampled(self, tasks: Tasks, done: int) -> Iterator[list[Episode]]:
        size = self.tasks_per_batch
        first, count = self.processes.share(size)
        while True:
            yield as_episodes(tasks.sample(count, done * size + first))
            done += 1


def tasks_settings(tasks: Tasks, episodes: int) -> dict[str, Any]:
    """What the tasks say of themselves; where they say nothing, a digest of
    their first episodes.
    """
    if callable(getattr(tasks, "settings", None)):
        return settings(tasks, "tasks")
    parts = [
        tensor_digest(part)
        for e in as_episodes(tasks.sample(episodes, 0))
        for part in (e.support_x, e.support_y, e.query_x, e.query_y)
    ]
    return {"episodes": digest("".join(parts).encode())}
