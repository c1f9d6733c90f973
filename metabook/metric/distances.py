# SPDX-License-Identifier: MIT
"""Distances between queries and prototypes, for a batch of tasks.

Taught in section 4.2 of the book.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "DISTANCES",
    "Distance",
    "cosine",
    "distance_by_name",
    "euclidean",
    "manhattan",
    "squared_euclidean",
]

Distance = Callable[[Tensor, Tensor], Tensor]


def squared_euclidean(queries: Tensor, prototypes: Tensor) -> Tensor:
    r"""Squared Euclidean distance :math:`\|z - c\|^2` between all pairs.

    Parameters
    ----------
    queries : Tensor, (T, Q, D)
    prototypes : Tensor, (T, C, D)

    Returns
    -------
    Tensor, (T, Q, C)
        Computed as ``|z|^2 - 2 z.c + |c|^2``, a matrix product: memory T Q C,
        never T Q C D. The mean of the prototypes is subtracted from both first,
        since where features are far from zero and close together nothing
        would be left of their differences.

    Examples
    --------
    >>> import torch
    >>> z, c = torch.tensor([[[0.0]]]), torch.tensor([[[1.0], [3.0]]])
    >>> squared_euclidean(z, c)
    tensor([[[1., 9.]]])
    """
    # a shift changes no distance, and so has no gradient
    mean = prototypes.detach().mean(dim=1, keepdim=True)
    queries, prototypes = queries - mean, prototypes - mean
    z2 = queries.pow(2).sum(dim=-1)[:, :, None]
    c2 = prototypes.pow(2).sum(dim=-1)[:, None, :]
    # rounding can leave a tiny negative number where z = c
    return (z2 - 2 * queries @ prototypes.mT + c2).clamp_min(0)


def euclidean(queries: Tensor, prototypes: Tensor) -> Tensor:
    """Plain Euclidean distance, ``|z - c|``; shapes as in `squared_euclidean`.

    Examples
    --------
    >>> euclidean(torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[3.0, 4.0]]]))
    tensor([[[5.]]])
    """
    # the root has no slope at zero
    return squared_euclidean(queries, prototypes).clamp_min(1e-12).sqrt()


def manhattan(queries: Tensor, prototypes: Tensor) -> Tensor:
    """Sum of the absolute differences; shapes as in `squared_euclidean`.

    Examples
    --------
    >>> manhattan(torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[3.0, 4.0]]]))
    tensor([[[7.]]])
    """
    return torch.cdist(queries, prototypes, p=1)


def cosine(queries: Tensor, prototypes: Tensor) -> Tensor:
    """One minus the cosine of the angle, 0 to 2; shapes as in
    `squared_euclidean`.

    The scores of two classes then differ by 2 at most, and a softmax over five
    classes gives the best of them at most 65 %: learn with a temperature.

    Examples
    --------
    >>> cosine(
    ...     torch.tensor([[[1.0, 0.0]]]),
    ...     torch.tensor([[[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]]),
    ... )
    tensor([[[0., 1., 2.]]])
    """
    # of unit vectors: 1 - a.b = |a - b|^2 / 2, where small angles keep digits
    half = squared_euclidean(
        F.normalize(queries, dim=-1), F.normalize(prototypes, dim=-1)
    )
    # a vector of zeros has no direction: at a right angle to all
    zeros = ~queries.any(dim=-1)[:, :, None], ~prototypes.any(dim=-1)[:, None]
    return (half + zeros[0] + zeros[1]) / 2


DISTANCES: dict[str, Distance] = {
    "squared_euclidean": squared_euclidean,
    "euclidean": euclidean,
    "manhattan": manhattan,
    "cosine": cosine,
}


def distance_by_name(distance: str | Distance) -> Distance:
    """A distance of this module by its name; any other callable of the same
    shapes as it is.
    """
    if callable(distance):
        return distance
    if distance not in DISTANCES:
        raise ValueError(
            f"distance is {distance!r}; choose one of {', '.join(DISTANCES)},"
            " or give a function"
        )
    return DISTANCES[distance]
