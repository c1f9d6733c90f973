# SPDX-License-Identifier: MIT
"""The global random numbers of Python, NumPy and torch, which nothing here may
touch: who draws from them makes a result depend on what else was drawn.
"""

import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["generators", "random_numbers_of", "watched_random_numbers"]

CPU = torch.device("cpu")


@contextmanager
def watched_random_numbers(
    device: torch.device = CPU,
) -> Iterator[Callable[[], bool]]:
    """Put the global random numbers back afterwards, whatever happens inside.

    Parameters
    ----------
    device : torch.device
        Watched beside the CPU.

    Yields
    ------
    callable
        Says whether any of them moved so far.

    Examples
    --------
    >>> with watched_random_numbers() as moved:
    ...     before = moved()
    ...     _ = torch.rand(3)
    ...     before, moved()
    (False, True)
    """
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    of_torch = [(g, g.get_state()) for g in generators(device)]

    def moved() -> bool:
        now = np.random.get_state()  # noqa: NPY002
        return (
            any(not torch.equal(g.get_state(), s) for g, s in of_torch)
            or random.getstate() != of_python
            or pickle.dumps(now) != pickle.dumps(of_numpy)
        )

    try:
        yield moved
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
        for generator, state in of_torch:
            generator.set_state(state)


@contextmanager
def random_numbers_of(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """The global random numbers as after seeding, and as before again.

    ``torch.manual_seed`` would seed every GPU, and what it does to one that is
    not yet in use could not be undone.

    Examples
    --------
    >>> def draw():
    ...     with random_numbers_of(7):
    ...         return torch.rand(2).tolist()
    >>> draw() == draw()
    True
    """
    with watched_random_numbers(device):
        for generator in generators(device):
            generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        yield


def generators(device: torch.device) -> list[torch.Generator]:
    """The global generators that a model on this device draws from.

    Examples
    --------
    >>> generators(torch.device("cpu")) == [torch.default_generator]
    True
    """
    found = [torch.default_generator]
    if device.type == "cuda":
        found.append(torch.cuda.default_generators[device.index or 0])
    return found
