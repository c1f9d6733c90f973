# SPDX-License-Identifier: MIT
"""Random numbers as a function of counters.

``random_bits(seed, i, j)`` depends on its arguments and on nothing else.
Episode 7 is therefore the same episode whether it is drawn alone, in a batch,
by another process, or after a restart. The mixing function is the finaliser of
SplitMix64 (Steele, Lea & Flood, 2014, https://doi.org/10.1145/2714064.2660195).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

__all__ = [
    "check_seed",
    "random_bits",
    "random_choice",
    "random_normal",
    "random_uniform",
]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# arrays of no dimension: a NumPy scalar would be made into one at every use,
# which takes as long as the arithmetic
_M1 = np.array(0xBF58476D1CE4E5B9, np.uint64)
_M2 = np.array(0x94D049BB133111EB, np.uint64)
_30, _27, _31 = (np.array(shift, np.uint64) for shift in (30, 27, 31))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> _30)) * _M1
    x = (x ^ (x >> _27)) * _M2
    return x ^ (x >> _31)


def check_seed(seed: int) -> int:
    """Return a seed as it is, or refuse what the hash would silently round.

    Raises
    ------
    ValueError
        If it is no integer from 0 to 2**64 - 1.

    Examples
    --------
    >>> check_seed(7)
    7
    """
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**64:
        raise ValueError(
            f"seed is {seed!r}; it must be an integer from 0 to 2**64 - 1"
        )
    return int(seed)


def random_bits(seed: ArrayLike, *counters: ArrayLike) -> NDArray[np.uint64]:
    """Hash a seed and counters to 64 uniform bits.

    Parameters
    ----------
    seed, *counters : int or array of int
        Non-negative; broadcast against each other. The result of one call may
        seed another.

    Returns
    -------
    array of uint64, of the broadcast shape

    Examples
    --------
    >>> int(random_bits(0, 7)[()]) == int(random_bits(0, [6, 7, 8])[1])
    True
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is the point
        bits = _mix(np.asarray(seed).astype(np.uint64) + _GOLDEN)
        for counter in counters:
            step = np.asarray(counter).astype(np.uint64) + np.uint64(1)
            bits = _mix(bits + _GOLDEN * step)
    return bits


def random_uniform(
    seed: ArrayLike, *counters: ArrayLike
) -> NDArray[np.float64]:
    """Like `random_bits`, but uniform floats in the open interval (0, 1)."""
    return _uniform(random_bits(seed, *counters))


def _uniform(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def random_normal(seed: ArrayLike, *counters: ArrayLike) -> NDArray[np.float64]:
    """Like `random_bits`, but standard normal floats."""
    return np.asarray(ndtri(random_uniform(seed, *counters)))


def random_choice(
    seed: NDArray[np.uint64], population: ArrayLike, k: int
) -> NDArray[np.int64]:
    """Draw ``k`` distinct integers in random order, once for each seed.

    Parameters
    ----------
    seed : array of uint64, (rows,)
    population : int or array of int, (rows,)
        Row r draws from ``range(population[r])``; at least ``k``.
    k : int

    Returns
    -------
    array of int64, (rows, k)
        Uniform over ordered selections. The cost grows with ``k``, not with the
        population: Floyd's algorithm (Bentley & Floyd, 1987,
        https://doi.org/10.1145/30401.315746), all rows at once, and then a
        shuffle.

    Examples
    --------
    >>> random_choice(random_bits(0, [1, 2]), population=1000, k=3).shape
    (2, 3)
    """
    # (2 k, rows): k draws, and k keys to shuffle by
    bits = random_bits(seed, np.arange(2 * k)[:, None])
    last = np.asarray(population, np.int64) - np.arange(k, 0, -1)[:, None]
    chosen = (_uniform(bits[:k]) * (last + 1)).astype(np.int64)
    for j in range(1, k):
        taken = np.logical_or.reduce(chosen[:j] == chosen[j], axis=0)
        np.copyto(chosen[j], last[j], where=taken)
    shuffle = np.argsort(bits[k:], axis=0)
    return np.take_along_axis(chosen, shuffle, axis=0).T
