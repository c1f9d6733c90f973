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

__all__ = ["watched_random_numbers"]


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
