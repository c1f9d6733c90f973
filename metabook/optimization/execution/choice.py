# SPDX-License-Identifier: MIT
"""Which way the tasks of a batch are computed.

    one at a time    the plain loop, which the other ways are tested against
    a task a core    the plain loop on several threads
    side by side     up to 32 tasks in one pass, with other weights for each
    compiled         side by side, as one program

The way is chosen here, from the model, the device and the settings. All of
them give the same numbers, up to rounding.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from metabook.optimization.execution.compiled import Programs
from metabook.optimization.execution.side_by_side import obstacle, worthwhile
from metabook.optimization.execution.threads import (
    Threads,
    copy_sharing_weights,
)
from metabook.optimization.method import Method
from metabook.tasks.episode import Episode

__all__ = ["SIDE_BY_SIDE", "Execution"]

SIDE_BY_SIDE = 32  # tasks: enough to keep a processor busy, a bound on memory


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
        dropout = any(isinstance(m, _DropoutNd) for m in model.modules())
        if dropout and threads is not None and threads > 1:
            raise ValueError(
                "the model has dropout, whose random state threads would"
                " share: use threads=1"
            )
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; it must be at least 1")
        if compiled and vectorized is False:
            raise ValueError(
                "what is compiled are tasks side by side: leave"
                " vectorized=False out"
            )
        if (vectorized or compiled) and obstacle(model):
            raise ValueError(
                f"the tasks cannot be computed side by side: {obstacle(model)};"
                " use vectorized=False"
            )
        self.vectorized = compiled or vectorized
        self.threads = 1 if dropout else threads
        self.programs = Programs() if compiled else None
        self.pool = Threads()

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

    def backward(
        self, learner: Method, episode: Episode, way: int | None
    ) -> float:
        """Add the outer gradient to ``.grad`` and return the mean loss.

        One pass of tasks at a time, so that memory does not grow with T.
        """
        size = self.tasks_at_once(learner.model, episode.support_x)
        copies = self._copies(learner, len(episode)) if size == 1 else []
        if copies:
            return self.pool.backward(learner, episode, way, copies)
        tasks, total = len(episode), 0.0
        for part in episode.split(size):
            if self.programs is None:
                total += learner.add_gradient(part, way, tasks)
            else:
                total += self._compiled(
                    self.programs, learner, part, way, tasks
                )
        return total

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

    def _copies(self, learner: Method, tasks: int) -> list[Method]:
        """A learner for every thread, since a pass borrows the module's
        weights; none where one thread is to do it all.
        """
        threads = min(self.threads or torch.get_num_threads(), tasks)
        parameters = list(learner.parameters())
        # copies would lose the hooks, and threads do not inherit autocast
        hooked = any(p._backward_hooks for p in parameters)
        on_cpu = all(p.device.type == "cpu" for p in parameters)
        if (
            threads == 1
            or hooked
            or not on_cpu
            or torch.is_autocast_enabled("cpu")
        ):
            return []
        try:
            return [copy_sharing_weights(learner) for _ in range(threads)]
        except RuntimeError:  # a module that keeps an activation has no copy
            return []
