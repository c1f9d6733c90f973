# SPDX-License-Identifier: MIT
"""A task a core: gradients of several tasks at once, each on its own thread.

Small convolutions do not keep several cores busy, but several tasks do. The
threads live as long as the learner. The copies that they work on are made for
each call, since they share the learner's weights: making one takes as long
for ten million parameters as for ten.
"""

import copy
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from queue import SimpleQueue

import torch
from torch import Tensor, nn

from metabook.optimization.inner_loop import add_to_grad
from metabook.optimization.method import Method
from metabook.tasks.episode import Episode

__all__ = ["Threads", "copy_sharing_weights"]


class Threads:
    """Threads with one core each, started when they are first needed."""

    def __init__(self) -> None:
        self.pool: ThreadPoolExecutor | None = None
        self.of: tuple[int, int] | None = None  # how many, in which process

    def __deepcopy__(self, memo: object) -> "Threads":
        return Threads()

    def __reduce__(self) -> tuple[type["Threads"], tuple[()]]:
        return Threads, ()

    def backward(
        self,
        learner: Method,
        episode: Episode,
        way: int | None,
        copies: list[Method],
    ) -> float:
        """Add the gradients to ``.grad`` in the order of the tasks, whichever
        is ready first; returns the mean loss.
        """
        free: SimpleQueue[Method] = SimpleQueue()
        for copied in copies:
            free.put(copied)

        def gradient(task: Episode) -> tuple[float, list[Tensor | None]]:
            mine = free.get()
            try:
                mine.zero_grad()
                loss = mine.add_gradient(task, way, len(episode))
                return loss, [p.grad for p in mine.parameters()]
            finally:
                free.put(mine)

        total = 0.0
        with self._one_core_each(len(copies)) as pool:
            futures = [pool.submit(gradient, t) for t in episode.tasks()]
            try:
                for future in futures:
                    loss, grads = future.result()
                    total += loss
                    for p, g in zip(learner.parameters(), grads, strict=True):
                        if g is not None:
                            add_to_grad(p, g)
            finally:  # after an error the rest need not be computed
                for future in futures:
                    future.cancel()
                wait(futures)
        return total

    @contextmanager
    def _one_core_each(self, threads: int) -> Iterator[ThreadPoolExecutor]:
        """The pool, in place of torch's own threads, which share the work
        inside of an operation.
        """
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # else every thread would ask for all cores
        try:
            yield self._pool(threads)
        finally:
            torch.set_num_threads(before)

    def _pool(self, threads: int) -> ThreadPoolExecutor:
        # a forked process inherits the object, but none of its threads
        if self.pool is None or self.of != (threads, os.getpid()):
            started = threading.Barrier(threads)

            def start() -> None:
                torch.set_num_threads(1)
                started.wait()

            self.pool = ThreadPoolExecutor(threads)
            # the number of threads is partly global: all set it before work
            wait([self.pool.submit(start) for _ in range(threads)])
            self.of = threads, os.getpid()
        return self.pool


def copy_sharing_weights(
    learner: Method,
) -> Method:
    """A copy with parameters of its own, hence gradients of its own, that lie
    at the same place in memory.
    """
    memo: dict[int, object] = {id(b): b for b in learner.buffers()}
    for p in learner.parameters():
        memo[id(p)] = nn.Parameter(p.detach(), p.requires_grad)
    return copy.deepcopy(learner, memo)
