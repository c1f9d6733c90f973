# SPDX-License-Identifier: MIT
"""Random numbers of its own for each task of a batch, as for dropout.

Task i of a batch draws from a stream that (base, i) determines; the base is one
draw from torch's global generator. A task's random numbers therefore depend
neither on the tasks before it nor on how many are computed at once, and a run
that goes on from a saved random state repeats them. A model that draws nothing
leaves the caller's generator as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from metabook.data.global_random import generators
from metabook.data.random import random_bits

__all__ = ["Streams"]


class Streams:
    """The streams of one batch, used with ``with``.

    Parameters
    ----------
    device : torch.device
        Of the model; torch's generator for the CPU has streams in any case.

    Examples
    --------
    >>> def draw():
    ...     with Streams(torch.device("cpu")) as streams:
    ...         with streams.of_task(0):
    ...             first = torch.rand(3)
    ...         with streams.of_task(1):
    ...             return first, torch.rand(3)
    >>> state = torch.get_rng_state()
    >>> first, second = draw()
    >>> torch.equal(first, second)
    False
    >>> torch.set_rng_state(state)
    >>> torch.equal(draw()[1], second)
    True
    """

    def __init__(self, device: torch.device) -> None:
        self.generators, self.drawn = generators(device), False

    def __enter__(self) -> "Streams":
        self.states = [g.get_state() for g in self.generators]
        caller = torch.Generator()
        caller.set_state(torch.get_rng_state())
        self.base = int(torch.randint(2**63 - 1, (), generator=caller))
        self.after = caller.get_state()
        return self

    def __exit__(self, *error: object) -> None:
        for generator, state in zip(self.generators, self.states, strict=True):
            generator.set_state(state)
        if self.drawn:
            torch.set_rng_state(self.after)

    @contextmanager
    def of_task(self, task: int) -> Iterator[None]:
        """Draw from the stream of this task."""
        seed = int(random_bits(self.base, task))
        for generator in self.generators:
            generator.manual_seed(seed)
        start = [g.get_state() for g in self.generators]
        yield
        self.drawn |= any(
            not torch.equal(g.get_state(), s)
            for g, s in zip(self.generators, start, strict=True)
        )
