# SPDX-License-Identifier: MIT
"""Distances between queries and prototypes, for a batch of tasks. Taught in section 4.2 of the book."""

from torch import Tensor

__all__ = ["squared_euclidean"]


def squared_euclidean(queries: Tensor, prototypes: Tensor) -> Tensor:
    r"""Squared Euclidean distance :math:`\|z - c\|^2` between all pairs.

    Parameters
    ----------
    queries : Tensor, (T, Q, D)
    prototypes : Tensor, (T, C, D)

    Returns
    -------
    Tensor, (T, Q, C)
        Computed as |z|^2 - 2 z.c + |c|^2, a matrix product: memory T Q C, never T Q C D.

    Examples
    --------
    >>> import torch
    >>> squared_euclidean(torch.tensor([[[0.0]]]), torch.tensor([[[1.0], [3.0]]]))
    tensor([[[1., 9.]]])
    """
    z2 = queries.pow(2).sum(dim=-1)[:, :, None]
    c2 = prototypes.pow(2).sum(dim=-1)[:, None, :]
    # rounding can leave a tiny negative number where z = c
    return (z2 - 2 * queries @ prototypes.mT + c2).clamp_min(0)
