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

__all__ = ["random_numbers_of", "watched_random_numbers"]


@contextmanager
def watched_random_numbers() -> Iterator[Callable[[], bool]]:
    """Put the global random numbers back afterwards, whatever happens inside.

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
    of_python, of_torch = random.getstate(), torch.get_rng_state()
    of_numpy = np.random.get_state()  # noqa: NPY002

    def moved() -> bool:
        now = np.random.get_state()  # noqa: NPY002
        return (
            random.getstate() != of_python
            or not torch.equal(torch.get_rng_state(), of_torch)
            or pickle.dumps(now) != pickle.dumps(of_numpy)
        )

    try:
        yield moved
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
        torch.set_rng_state(of_torch)


@contextmanager
def random_numbers_of(seed: int, device: torch.device) -> Iterator[None]:
    """The global random numbers as after seeding, and as before again.

    ``torch.manual_seed`` would seed every GPU, and what it does to one that is
    not yet in use could not be undone.

    Examples
    --------
    >>> def draw():
    ...     with random_numbers_of(7, torch.device("cpu")):
    ...         return torch.rand(2).tolist()
    >>> draw() == draw()
    True
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    states = [generator.get_state() for generator in generators]
    with watched_random_numbers():
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        for generator in generators:
            generator.manual_seed(seed)
        try:
            yield
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
