# SPDX-License-Identifier: MIT
"""Which way the tasks of a batch are computed.

    one at a time    the plain loop, which the other ways are tested against
    a task a core    the plain loop on several threads
    side by side     up to 32 tasks in one pass, with other weights for each
    compiled         side by side, as one program

The way is chosen here, from the model, the device and the settings. All of
them give the same numbers, up to rounding; random ones too, since each task
draws from a stream of its own.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from metabook.data.global_random import watched_random_numbers
from metabook.optimization.checks import (
    hooks_of_layers,
    hooks_of_weights,
    refuse_hooks_of_weights,
)
from metabook.optimization.execution.compiled import Programs
from metabook.optimization.execution.side_by_side import obstacle, worthwhile
from metabook.optimization.execution.streams import Streams
from metabook.optimization.execution.threads import (
    Threads,
    copy_sharing_weights,
)
from metabook.optimization.method import Method
from metabook.tasks.episode import Episode

__all__ = ["SIDE_BY_SIDE", "Execution"]

SIDE_BY_SIDE = 32  # tasks: enough to keep a processor busy, a bound on memory

Result = TypeVar("Result")


class Execution:
    """How a learner computes the tasks of a batch.

    Parameters
    ----------
    model : nn.Module
    vectorized : bool, optional
        Side by side or not; whichever is faster, unless given.
    threads : int, optional
        At most so many tasks at once, a core each, where they are not side by
        side; as many as torch uses, unless given.
    compiled : bool

    Raises
    ------
    ValueError
        If the model does not allow what is asked for, or the settings
        contradict each other.
    """

    def __init__(
        self,
        model: nn.Module,
        vectorized: bool | None = None,
        threads: int | None = None,
        compiled: bool = False,
    ) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; it must be at least 1")
        if compiled and vectorized is False:
            raise ValueError(
                "what is compiled are tasks side by side: leave"
                " vectorized=False out"
            )
        if (vectorized or compiled) and obstacle(model):
            option = "compiled" if compiled else "vectorized"
            raise ValueError(
                f"the tasks cannot be computed side by side: {obstacle(model)};"
                f" use {option}=False"
            )
        self.vectorized, self.threads = compiled or vectorized, threads
        self.programs = Programs() if compiled else None
        self.pool = Threads()
        self.draws: set[bool] = set()  # in training mode, or in evaluation

    def tasks_at_once(self, model: nn.Module, x: Tensor) -> int:
        """How many tasks go through the model in one pass."""
        together = self.vectorized
        if together is None:
            together = worthwhile(model, x.device)
        return SIDE_BY_SIDE if together else 1

    def parts(
        self, model: nn.Module, *tensors: Tensor
    ) -> Iterator[tuple[Tensor, ...]]:
        """Tensors (T, ...) in pieces of as many tasks as go in one pass."""
        size = self.tasks_at_once(model, tensors[0])
        return zip(*(torch.split(t, size) for t in tensors), strict=True)

    def each(
        self,
        model: nn.Module,
        episode: Episode,
        f: Callable[[Episode], Result],
    ) -> list[Result]:
        """f of as many tasks as go in one pass: one after another each with
        random numbers of its own, and side by side they draw none.
        """
        size = self.tasks_at_once(model, episode.support_x)
        if size > 1:
            return [f(part) for part in episode.split(size)]
        results = []
        with Streams(episode.support_x.device) as streams:
            for i, task in enumerate(episode.tasks()):
                with streams.of_task(i):
                    results.append(f(task))
        return results

    def backward(
        self, learner: Method, episode: Episode, way: int | None
    ) -> float:
        """Add the outer gradient to ``.grad`` and return the mean loss.

        One pass of tasks at a time, so that memory does not grow with T.

        Raises
        ------
        ValueError
            If several threads were asked for, and the model draws random
            numbers; if a compiled model has hooks.
        """
        if self.tasks_at_once(learner.model, episode.support_x) == 1:
            loss = self._on_threads(learner, episode, way)
            if loss is not None:
                return loss
        if self.programs is not None:
            _refuse_hooks(learner)
            if type(learner).add_gradient is not Method.add_gradient:
                raise ValueError(
                    f"{type(learner).__name__} has an add_gradient of its own,"
                    " which is not what would be compiled: use compiled=False"
                )
        tasks = len(episode)

        def gradient(part: Episode) -> float:
            if self.programs is None:
                return learner.add_gradient(part, way, tasks)
            return self._compiled(self.programs, learner, part, way, tasks)

        return sum(self.each(learner.model, episode, gradient))

    @staticmethod
    def _compiled(
        programs: Programs,
        learner: Method,
        part: Episode,
        way: int | None,
        tasks: int,
    ) -> float:
        def mean_loss(*tensors: Tensor) -> Tensor:
            return learner.outer_loss(Episode(*tensors), way) / tasks

        tensors = part.support_x, part.support_y, part.query_x, part.query_y
        settings = way, tasks, learner.loss_fn
        return float(programs.backward(learner, mean_loss, tensors, settings))

    def _on_threads(
        self, learner: Method, episode: Episode, way: int | None
    ) -> float | None:
        """The loss, or ``None`` where one thread is to do it all."""
        copies = self._copies(learner, len(episode))
        if not copies:
            return None
        before = [
            None if p.grad is None else p.grad.clone()
            for p in learner.parameters()
        ]
        with watched_random_numbers() as moved:
            loss = self.pool.backward(learner, episode, way, copies)
            if not moved():
                return loss
        # threads share one random state: what came out depends on their timing
        for p, grad in zip(learner.parameters(), before, strict=True):
            p.grad = grad
        if self.threads is not None:
            raise ValueError(
                "the model draws random numbers, as for dropout, and"
                f" {self.threads} threads would share their state: use"
                " threads=1, or leave threads out"
            )
        self.draws.add(learner.training)
        return None

    def _copies(self, learner: Method, tasks: int) -> list[Method]:
        """A learner for every thread, since a pass borrows the module's
        weights; none where one thread is to do it all.
        """
        threads = min(self.threads or torch.get_num_threads(), tasks)
        on_cpu = all(p.device.type == "cpu" for p in learner.parameters())
        # copies would lose the hooks, and threads do not inherit autocast
        if (
            threads == 1
            or learner.training in self.draws
            or not on_cpu
            or hooks_of_layers(learner)
            or hooks_of_weights(learner)
            or torch.is_autocast_enabled("cpu")
        ):
            return []
        try:
            return [copy_sharing_weights(learner) for _ in range(threads)]
        except RuntimeError:  # a module that keeps an activation has no copy
            return []


def _refuse_hooks(learner: Method) -> None:
    """A program would call them once, while it is recorded."""
    if names := hooks_of_layers(learner):
        raise ValueError(
            f"{names[0]} has a hook, which a compiled program would not call:"
            " use compiled=False"
        )
    refuse_hooks_of_weights(learner)
