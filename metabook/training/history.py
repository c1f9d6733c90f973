# SPDX-License-Identifier: MIT
"""What a training has seen. Taught in section 2.1 of the book."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["History"]


@dataclass(repr=False)
class History:
    """What `train` saw.

    Attributes
    ----------
    losses : list of float
        Outer loss of every iteration.
    validations : list of (iteration, mean, ci95)
    best_iteration : int, optional
        The iteration whose weights the learner now has; ``None`` without
        validation.
    seconds : float
        Time spent training and validating, over all resumed parts.

    Examples
    --------
    >>> History([0.9, 0.5], [(2, 0.7, 0.05)], best_iteration=2, seconds=3.2)
    History(2 iterations in 3 s, last loss 0.5, valid 0.7 ± 0.05 at 2)
    """

    losses: list[float] = field(default_factory=list)
    validations: list[tuple[int, float, float]] = field(default_factory=list)
    best_iteration: int | None = None
    seconds: float = 0.0

    @property
    def best(self) -> tuple[float, float] | None:
        """Mean and ci95 of the best validation."""
        for iteration, mean, ci95 in self.validations:
            if iteration == self.best_iteration:
                return mean, ci95
        return None

    def __repr__(self) -> str:
        text = f"{len(self.losses):,} iterations in {self.seconds:.0f} s"
        if self.losses:
            text += f", last loss {self.losses[-1]:.4g}"
        if self.best:
            mean, ci95 = self.best
            text += (
                f", valid {mean:.4g} ± {ci95:.2g} at {self.best_iteration:,}"
            )
        return f"History({text})"

    def lines(self, first: int = 0) -> Iterator[dict[str, Any]]:
        """The log from its line ``first`` on, one line an iteration."""
        validations = {i: (mean, ci95) for i, mean, ci95 in self.validations}
        for i, loss in enumerate(self.losses[first:], start=first + 1):
            line: dict[str, Any] = {"iteration": i, "loss": loss}
            if i in validations:
                line["valid"], line["ci95"] = validations[i]
            yield line
