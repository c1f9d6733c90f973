# SPDX-License-Identifier: MIT
"""What everything that trains or measures asks of tasks. Taught in section 2.1
of the book.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from metabook.tasks.episode import Episode

__all__ = ["Tasks"]


@runtime_checkable
class Tasks(Protocol):
    """Where episodes come from: `FewShotTasks`, `Sinusoids`, `VariedTasks`, or
    anything with this method.

    Examples
    --------
    >>> import torch
    >>> import metabook as mb
    >>> class Lines:  # y = a x, another slope a in each task
    ...     def sample(self, tasks, start=0):
    ...         def draw(i):
    ...             generator = torch.Generator().manual_seed(i)
    ...             x = torch.rand(15, 1, generator=generator)
    ...             return x, x * torch.randn(1, generator=generator)
    ...
    ...         x, y = map(
    ...             torch.stack,
    ...             zip(*map(draw, range(start, start + tasks)), strict=True),
    ...         )
    ...         return mb.Episode(x[:, :5], y[:, :5], x[:, 5:], y[:, 5:])
    >>> Lines().sample(3)
    Episode(3 tasks, support 5 x (1,), query 10 x (1,))
    >>> isinstance(Lines(), mb.Tasks)
    True
    """

    def sample(self, tasks: int, start: int = 0) -> Episode | Sequence[Episode]:
        """Tasks ``start`` to ``start + tasks - 1`` as one batch; as a list with
        T = 1 each if their shapes differ. Task i is always the same.
        """
