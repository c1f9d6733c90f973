# SPDX-License-Identifier: MIT
"""The episode: a batch of small learning problems, each with examples to learn
from and examples to be judged on.

Taught in section 2.1 of the book.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Episode", "as_episodes"]


@dataclass(frozen=True, eq=False)
class Episode:
    """A batch of T tasks; task t learns from its support set and is judged on
    its query set.

    Parameters
    ----------
    support_x : Tensor, (T, S, ...)
    support_y : Tensor, (T, S) of integer labels, or (T, S, ...) of floating
        targets
    query_x : Tensor, (T, Q, ...)
    query_y : Tensor, (T, Q) or (T, Q, ...)
    class_names : tuple of tuple of str, optional
        For each task, what its classes are called: name j is that of the j-th
        smallest label.

    Raises
    ------
    ValueError
        If the tensors do not describe the same tasks and the same kind of
        example.

    Examples
    --------
    >>> episode = Episode(
    ...     torch.zeros(2, 5, 3),
    ...     torch.zeros(2, 5),
    ...     torch.zeros(2, 7, 3),
    ...     torch.zeros(2, 7),
    ... )
    >>> len(episode), episode
    (2, Episode(2 tasks, support 5 x (3,), query 7 x (3,)))
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    class_names: tuple[tuple[str, ...], ...] | None = field(
        default=None, kw_only=True
    )

    def __post_init__(self) -> None:
        tensors = {"support_x": self.support_x, "support_y": self.support_y}
        tensors |= {"query_x": self.query_x, "query_y": self.query_y}
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                raise ValueError(
                    f"{name} is a {type(tensor).__name__}; an Episode holds"
                    " tensors"
                )
            if tensor.dim() < 2:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}; every tensor of"
                    " an episode starts with (tasks, examples). For a single"
                    f" task add the first one: {name}[None]"
                )
        for part in ("support", "query"):
            x, y = tensors[f"{part}_x"], tensors[f"{part}_y"]
            if x.shape[:2] != y.shape[:2]:
                raise ValueError(
                    f"{part}_x is {tuple(x.shape)} but {part}_y is"
                    f" {tuple(y.shape)}: the first two sizes, tasks and"
                    " examples, must agree"
                )
            if 0 in x.shape[:2]:
                raise ValueError(
                    f"{part}_x is {tuple(x.shape)}: an episode has at least one"
                    " task and one example"
                )
        if len(self.support_x) != len(self.query_x):
            raise ValueError(
                f"{len(self.support_x)} tasks in the support set but"
                f" {len(self.query_x)} in the query set"
            )
        if self.support_x.shape[2:] != self.query_x.shape[2:]:
            raise ValueError(
                f"a support example is {tuple(self.support_x.shape[2:])} but a"
                f" query example is {tuple(self.query_x.shape[2:])}"
            )
        if (
            self.support_y.is_floating_point()
            != self.query_y.is_floating_point()
        ):
            raise ValueError(
                f"support_y is {self.support_y.dtype} but query_y is"
                f" {self.query_y.dtype}"
            )
        if self.class_names is not None and len(self.class_names) != len(self):
            raise ValueError(
                f"class_names are those of {len(self.class_names)} tasks, but"
                f" there are {len(self)}; each task has a tuple of its own"
            )

    def __len__(self) -> int:
        return len(self.support_x)

    def __repr__(self) -> str:
        support, query = self.support_x.shape, self.query_x.shape
        return (
            f"Episode({len(self)} tasks, support {support[1]} x"
            f" {tuple(support[2:])}, query {query[1]} x {tuple(query[2:])})"
        )

    def split(self, size: int) -> Iterator["Episode"]:
        """Yield episodes of ``size`` tasks; the last one may have fewer."""
        for t in range(0, len(self), size):
            yield self.part(slice(t, t + size))

    def part(self, tasks: slice) -> "Episode":
        """The episode of some of the tasks."""
        return Episode(
            self.support_x[tasks],
            self.support_y[tasks],
            self.query_x[tasks],
            self.query_y[tasks],
            class_names=self.class_names and self.class_names[tasks],
        )

    def tasks(self) -> Iterator["Episode"]:
        """Yield each task as an episode with T = 1."""
        return self.split(1)

    def to(self, *args: torch.device | torch.dtype | str) -> "Episode":
        """Move to a device; a floating dtype converts the floating tensors and
        leaves integer labels alone.
        """
        dtypes = [a for a in args if isinstance(a, torch.dtype)]
        others = [a for a in args if not isinstance(a, torch.dtype)]

        def move(tensor: Tensor) -> Tensor:
            for other in others:
                tensor = tensor.to(other)
            return (
                tensor.to(dtypes[0])
                if dtypes and tensor.is_floating_point()
                else tensor
            )

        return Episode(
            move(self.support_x),
            move(self.support_y),
            move(self.query_x),
            move(self.query_y),
            class_names=self.class_names,
        )


def as_episodes(sample: Episode | Sequence[Episode]) -> list[Episode]:
    """What tasks deliver, as a list: one batch of tasks of the same shape, or
    single tasks of shapes of their own.

    Raises
    ------
    ValueError
        If a list holds something other than episodes with T = 1, or nothing.

    Examples
    --------
    >>> episode = Episode(
    ...     torch.zeros(2, 5, 3),
    ...     torch.zeros(2, 5),
    ...     torch.zeros(2, 7, 3),
    ...     torch.zeros(2, 7),
    ... )
    >>> len(as_episodes(episode)), len(as_episodes([*episode.tasks()]))
    (1, 2)
    """
    if isinstance(sample, Episode):
        return [sample]
    episodes = list(sample)
    if not episodes:
        raise ValueError(
            "sample returned an empty list; it returns an Episode, or a list"
            " with one for each task"
        )
    for i, episode in enumerate(episodes):
        if not isinstance(episode, Episode):
            raise ValueError(
                f"sample returned a list with a {type(episode).__name__}; it"
                " must hold Episodes"
            )
        if len(episode) != 1:
            raise ValueError(
                f"episode {i} of the list has {len(episode)} tasks; in a list"
                " each episode is one task: split it by [*episode.tasks()]"
            )
    return episodes
