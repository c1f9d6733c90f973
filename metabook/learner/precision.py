# SPDX-License-Identifier: MIT
"""In which precision a learner computes: what is asked is computed, or refused
by name.

Half precision is ``torch.bfloat16`` or ``torch.float16``. It is asked for by
the weights (``learner.to(torch.bfloat16)``), by ``torch.autocast`` around a
call, or inside of a learner, by ``embedding_dtype`` and ``query_dtype``.

    ====================  ===========  =======================================
    asked                 predictions  outer gradient, and training
    ====================  ===========  =======================================
    float64, float32      computed     computed
    bfloat16 weights      computed     computed; through an inner loop refused
    float16 weights       computed     as above, and `metabook.train` refused
    autocast around       computed     computed; through an inner loop refused
    `embedding_dtype`     float32      computed, in training alone
    `query_dtype`         as asked     computed, the inner loop in float32
    ====================  ===========  =======================================

An inner loop in half precision predicts nearly as well (the accuracy of MAML
changes by less than half a point), but a gradient through it is not worth its
name. Of a small convolutional network, against float64, the gradient of MAML
errs by half of its length in bfloat16 and by a sixth in float16, of first order
or of second; Reptile's by a third and a sixth; that of `ImplicitMAML` by more
than its length. The gradient of prototypes errs by a fifth and a fiftieth,
and 150 iterations of training end with the same accuracy. In float16 Adam's
squares of small gradients vanish: where gradients are about 0.0001, its steps
are dozens of times too long, or not finite.

Autocast reaches the network. Distances and scores of vectors, the heads of
`FineTuning`, and what a predictor keeps, stay in the type of the weights, so
that a predictor made inside of autocast is used outside, and the other way
round. Autocast leaves float64 as it is. `metabook.train` and
`metabook.evaluate` take tasks in float32 to the type of the weights; integers
stay (`metabook.learner.weights`).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = [
    "forget_casts",
    "is_cast",
    "refuse_float16",
    "refuse_half_precision",
    "uncast",
    "widened",
]

HALF = (torch.bfloat16, torch.float16)


def is_cast(x: Tensor) -> bool:
    """Whether autocast would compute with this tensor in half precision.

    Examples
    --------
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     is_cast(torch.ones(2)), is_cast(torch.ones(2).double())
    (True, False)
    """
    eligible = x.is_floating_point() and x.dtype != torch.float64
    return eligible and torch.is_autocast_enabled(x.device.type)


def uncast(device: torch.device) -> torch.autocast:
    """A context in which the autocast around it does nothing.

    Examples
    --------
    >>> x = torch.ones(2, 2)
    >>> with torch.autocast("cpu", torch.bfloat16), uncast(x.device):
    ...     (x @ x).dtype
    torch.float32
    """
    return torch.autocast(device.type, enabled=False)


def widened(dtype: torch.dtype) -> torch.dtype:
    """Float32 for half precision, in which Adam loses its way; any other
    floating type itself.

    Examples
    --------
    >>> widened(torch.float16), widened(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)


def forget_casts() -> None:
    """Let autocast cast the weights anew.

    It casts a weight once and keeps the result until its context ends, also
    when an optimiser has changed the weight since, or when the cast was made
    without a graph: a loop inside of one context would train on the weights of
    its first iteration.
    """
    torch.clear_autocast_cache()


def refuse_half_precision(weights: Mapping[str, Tensor]) -> None:
    """Refuse the outer gradient of an inner loop that adapts these weights in
    half precision.

    Raises
    ------
    RuntimeError
        Under autocast.
    ValueError
        If a weight is in half precision itself.

    Examples
    --------
    >>> refuse_half_precision({"w": torch.ones(2)})
    """
    for name, w in weights.items():
        if w.dtype in HALF:
            raise ValueError(
                f"{name} is {w.dtype}: a gradient through the inner loop would"
                " be computed in half precision, which ruins it. Train the"
                " learner in float32, learner.float(), with query_dtype=torch."
                "bfloat16 where speed counts; predictions alone are computed"
                " under torch.no_grad()"
            )
        if is_cast(w):
            raise RuntimeError(
                "under autocast a gradient through the inner loop would be"
                " computed in half precision, which ruins it: leave autocast,"
                " and use query_dtype=torch.bfloat16 where speed counts;"
                " predictions alone are computed under torch.no_grad()"
            )


def refuse_float16(learner: nn.Module) -> None:
    """Refuse to train weights in float16.

    Raises
    ------
    ValueError
        If there are any.

    Examples
    --------
    >>> refuse_float16(nn.Linear(2, 3).bfloat16())
    """
    for name, p in learner.named_parameters():
        if p.requires_grad and p.dtype == torch.float16:
            raise ValueError(
                f"{name} is torch.float16, too narrow for training: the squares"
                " of small gradients are zero in it. Train the learner in"
                " float32, learner.float(), or in learner.bfloat16(), and make"
                " it .half() afterwards"
            )
