# SPDX-License-Identifier: MIT
"""What a loss is handed, looked at before it computes something else.

Torch's losses take more than they should: cross-entropy of one column is zero
whatever the column holds, and a mean squared error of (N, 1) and (N,) is one of
all N x N pairs.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LossFn", "check_targets", "is_cross_entropy"]

LossFn = Callable[[Tensor, Tensor], Tensor]

ELEMENTWISE = (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss)
ELEMENTWISE_LAYERS = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)


def is_cross_entropy(loss_fn: LossFn) -> bool:
    """Whether it is torch's own, as a function or as a layer."""
    return loss_fn is F.cross_entropy or isinstance(
        loss_fn, nn.CrossEntropyLoss
    )


def check_targets(
    loss_fn: LossFn, predictions: Tensor, targets: Tensor
) -> None:
    """Refuse predictions and targets that the loss would take for others.

    Parameters
    ----------
    loss_fn : callable
    predictions : Tensor, (N, ...)
    targets : Tensor, (N,) or (N, ...)
        Columns of the predictions, or floating targets.

    Raises
    ------
    ValueError
        If floating targets that are no probabilities meet cross-entropy, class
        labels meet a loss of differences, or the shapes would broadcast.
    """
    elementwise = loss_fn in ELEMENTWISE or isinstance(
        loss_fn, ELEMENTWISE_LAYERS
    )
    if not targets.is_floating_point():
        if elementwise:
            raise ValueError(
                "mean squared error, or another loss of differences, of class"
                " labels: classes need cross-entropy, or a loss_fn that makes"
                " them one-hot"
            )
        return
    if is_cross_entropy(loss_fn) and not _are_probabilities(targets):
        raise ValueError(
            "the targets are floating, and no probabilities of two or more"
            " classes. Class labels are integers (labels.long()); regression"
            " needs its own loss, as loss_fn=torch.nn.functional.mse_loss"
        )
    as_many = predictions.numel() == targets.numel()
    if predictions.shape != targets.shape and (elementwise or as_many):
        raise ValueError(
            f"the predictions are {tuple(predictions.shape)} but the targets"
            f" are {tuple(targets.shape)}; give both the same shape, for"
            " example with y[..., None]"
        )


def _are_probabilities(targets: Tensor) -> bool:
    """Soft labels: at least two columns that sum to one."""
    if targets.dim() < 2 or targets.shape[1] < 2 or bool((targets < 0).any()):
        return False
    sums = targets.sum(dim=1)
    return torch.allclose(sums, torch.ones_like(sums), atol=1e-3)
