# SPDX-License-Identifier: MIT
"""What a search has tried, and the best of it. Taught in section 3.2."""

from dataclasses import dataclass, field
from typing import NamedTuple

from metabook.nas.space import Architecture

__all__ = ["SearchResult", "Trial"]


class Trial(NamedTuple):
    """One line of a history.

    ``repeated`` says that the score was remembered from an earlier trial of the
    same network; ``error`` says what went wrong where ``score`` is ``None``.

    Attributes
    ----------
    architecture : Architecture
    score : float, optional
    repeated : bool
    error : str, optional

    Examples
    --------
    >>> Trial((16, "skip"), 0.93)
    Trial(architecture=(16, 'skip'), score=0.93, repeated=False, error=None)
    """

    architecture: Architecture
    score: float | None
    repeated: bool = False
    error: str | None = None


@dataclass
class SearchResult:
    """What `search` found.

    Attributes
    ----------
    history : list of Trial
        In the order told.
    seconds : float
        Time spent, over all resumed parts.

    Examples
    --------
    >>> result = SearchResult(
    ...     [
    ...         Trial((8,), 0.5),
    ...         Trial((16,), None, error="ValueError: no"),
    ...         Trial((32,), 0.75),
    ...     ]
    ... )
    >>> result.best, result.score
    ((32,), 0.75)
    """

    history: list[Trial] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def _best(self) -> tuple[Architecture, float]:
        found = [
            (trial.score, trial.architecture)
            for trial in self.history
            if trial.score is not None
        ]
        if not found:
            why = (
                f"the first one says: {self.history[0].error}"
                if self.history
                else "none was made"
            )
            raise ValueError(
                "no evaluation succeeded, so there is no best architecture;"
                f" {why}"
            )
        score, arch = max(found, key=lambda pair: pair[0])
        return arch, score

    @property
    def best(self) -> Architecture:
        """The architecture with the highest score, the first of them. Its score
        is the luckiest of many: measure it again.
        """
        return self._best[0]

    @property
    def score(self) -> float:
        """The highest score that was told."""
        return self._best[1]

    def __repr__(self) -> str:
        done = (
            f"SearchResult({len(self.history):,} trials,"
            f" {sum(t.repeated for t in self.history):,} repeated"
        )
        failed = sum(t.score is None for t in self.history)
        if failed == len(self.history):
            return f"{done}, {failed:,} failed)"
        return (
            f"{done}, {failed:,} failed; best {self.best}, score"
            f" {self.score:.4f})"
        )
