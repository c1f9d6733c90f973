# SPDX-License-Identifier: MIT
"""How a contract asks a learner, compares its answers, and says what is
violated.
"""

import torch
from torch import Tensor

from metabook.learner.protocol import Learner
from metabook.tasks.episode import Episode

__all__ = [
    "NotANumber",
    "answer",
    "close",
    "equal",
    "fail",
    "parts",
    "shuffled",
]

ROUNDING = {
    torch.float64: 1e-8,
    torch.float32: 1e-4,
    torch.float16: 3e-2,
    torch.bfloat16: 1e-1,
}


class NotANumber(AssertionError):
    """A score that is missing or infinite."""


def fail(subject: object, what: str, look: str) -> None:
    """Raise an `AssertionError`: who does what, and where to look."""
    raise AssertionError(f"{type(subject).__name__} {what}: {look}")


def parts(episode: Episode) -> dict[str, Tensor]:
    """What a learner is called with, by name."""
    return {
        "support_x": episode.support_x,
        "support_y": episode.support_y,
        "query_x": episode.query_x,
    }


def answer(learner: Learner, episode: Episode, **changes: Tensor) -> Tensor:
    """The scores of an episode, some of its parts exchanged. A score is a
    number.
    """
    asked = {k: t.clone() for k, t in (parts(episode) | changes).items()}
    scores: Tensor = learner(**asked)
    if not bool(torch.isfinite(scores).all()):
        values = scores[~scores.isfinite()]
        raise NotANumber(
            f"{type(learner).__name__} returns {values[0].item()} among its"
            " scores: look for a division by zero, as by the deviation of a"
            " single example, for a logarithm of zero, and for an inner loop"
            " whose steps are too large"
        )
    return scores


def shuffled(n: int) -> Tensor:
    """The numbers below n in an order that is always the same."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(1))


def close(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding, relative to the largest score: differences of
    scores decide.
    """
    if a.shape != b.shape:
        return False
    scale = float(b.abs().max())
    return torch.allclose(a, b, rtol=0, atol=ROUNDING[a.dtype] * scale)


def equal(a: Tensor, b: Tensor | None) -> bool:
    """Equal to the last bit, missing values included."""
    return isinstance(b, Tensor) and bool(
        ((a == b) | ((a != a) & (b != b))).all()
    )
