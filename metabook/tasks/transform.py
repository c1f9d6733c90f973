# SPDX-License-Identifier: MIT
"""Augmentation that leaves a task a function of (seed, i) alone."""

from collections.abc import Callable

import torch
from torch import Tensor

from metabook.data.global_random import random_numbers_of
from metabook.data.random import random_bits

__all__ = ["Transform", "transformed"]

Transform = Callable[[Tensor], Tensor]

_TRANSFORM = 2**33  # a counter above all that draw classes, sizes and examples


def transformed(
    transform: Transform,
    support_x: Tensor,
    query_x: Tensor,
    seed: int,
    start: int,
) -> tuple[Tensor, Tensor]:
    """The examples (T, S, ...) and (T, Q, ...) of tasks ``start`` to ``start +
    T - 1``, each task's transformed by itself, without gradient.

    What the transform draws from the global random numbers of torch, numpy or
    Python depends on the seed and the number of the task; the caller's random
    state is as before.

    Raises
    ------
    ValueError
        If the transform does not return one example for each that it was given.

    Examples
    --------
    >>> def noise(x):
    ...     return x + torch.randn_like(x)
    >>> x, y = torch.zeros(3, 4, 2), torch.zeros(3, 7, 2)
    >>> three, _ = transformed(noise, x, y, seed=0, start=5)
    >>> one, _ = transformed(noise, x[:1], y[:1], seed=0, start=7)
    >>> torch.equal(three[2], one[0])
    True
    """
    done = []
    for t, parts in enumerate(zip(support_x, query_x, strict=True)):
        examples = torch.cat(parts)
        bits = random_bits(random_bits(seed, start + t), _TRANSFORM)
        with random_numbers_of(int(bits), examples.device), torch.no_grad():
            changed = transform(examples)
        if not isinstance(changed, Tensor) or len(changed) != len(examples):
            what = (
                f"shape {tuple(changed.shape)}"
                if isinstance(changed, Tensor)
                else f"a {type(changed).__name__}"
            )
            raise ValueError(
                f"transform was given shape {tuple(examples.shape)}, the"
                f" examples of one task, and returned {what}; it must return a"
                f" tensor with {len(examples)} examples"
            )
        done.append(torch.split(changed, [len(part) for part in parts]))
    support, query = zip(*done, strict=True)
    return torch.stack(support), torch.stack(query)
