# SPDX-License-Identifier: MIT
"""The outer loop of architecture search: ask, evaluate, tell.

Taught in section 3.2 of the book.
"""

import json
import math
import time
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tqdm import tqdm

from metabook.data.files import load_state, save_state, write_whole
from metabook.nas.space import Architecture, SearchSpace

__all__ = ["SearchResult", "Strategy", "Trial", "search"]

SAVE_EVERY = 1.0  # seconds between two checkpoints, at least


class Strategy(Protocol):
    """What `search` asks; `RandomSearch` is the shortest example.

    ``ask`` may be called several times before the first ``tell``; scores are
    told in the order asked, higher being better and ``None`` standing for an
    evaluation that failed. The random state is the strategy's own.

    Attributes
    ----------
    space : SearchSpace

    Examples
    --------
    >>> class InOrder:  # a strategy needs no base class, only these methods
    ...     def __init__(self, space):
    ...         self.space, self.asked = space, 0
    ...
    ...     def ask(self):
    ...         self.asked += 1
    ...         return list(self.space)[(self.asked - 1) % len(self.space)]
    ...
    ...     def tell(self, arch, score):
    ...         pass
    ...
    ...     def state_dict(self):
    ...         return {"asked": self.asked}
    ...
    ...     def load_state_dict(self, state):
    ...         self.asked = state["asked"]
    >>> strategy = InOrder(SearchSpace({"width": [8, 16], "depth": [1, 2]}))
    >>> search(strategy, lambda arch: -arch[0] * arch[1], budget=4).best
    (8, 1)
    """

    space: SearchSpace

    def ask(self) -> Architecture:
        """Propose an architecture of the space."""

    def tell(self, arch: Architecture, score: float | None) -> None:
        """Learn from a score."""

    def state_dict(self) -> dict[str, Any]:
        """All that later proposals depend on, in numbers, strings, tuples,
        lists, dicts and tensors.
        """

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken."""


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


def search(
    strategy: Strategy,
    evaluate: Callable[[Architecture], float],
    budget: int,
    seconds: float | None = None,
    executor: Executor | None = None,
    in_flight: int = 1,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> SearchResult:
    """Let a strategy propose architectures until the budget is spent; with a
    checkpoint folder, also resume.

    All that the search learns comes from ``evaluate``: score architectures
    there on validation data, and measure the best one afterwards on test data
    that no evaluation saw.

    Parameters
    ----------
    strategy : Strategy
        `RandomSearch`, `RegularizedEvolution`, `Reinforce`, `LocalSearch`, or
        anything with their methods. Changed in place.
    evaluate : callable
        ``evaluate(architecture)`` returns a number, higher being better. An
        exception or a number that is not finite is recorded as a failure, and
        the search goes on.
    budget : int
        Scores to be told. An architecture that was evaluated before
        (`SearchSpace.canonical` decides) is answered from memory, counts as
        one, and is marked in the history.
    seconds : float, optional
        Propose nothing more after this time, resumed parts included.
    executor : concurrent.futures.Executor, optional
        Where evaluations run, several at once if ``in_flight`` is larger than
        1. A process pool needs an ``evaluate`` that can be pickled.
    in_flight : int
        Proposals made before the first of them is told. Scores are told in the
        order asked, so the run depends on this number and never on how many
        workers there are or how fast they are.
    checkpoint : path, optional
        Folder for ``last.pt`` and ``log.jsonl`` (one trial a line), written
        every second and at the end. After an interruption the same line again
        goes on from there, and ends with the bits of an uninterrupted run. A
        finished search goes on with a larger budget.
    progress : bool
        Show a bar, where the output is a terminal.

    Returns
    -------
    SearchResult

    Raises
    ------
    ValueError
        If the folder holds a search with other settings or a longer one.

    Warns
    -----
    RuntimeWarning
        When the first evaluation fails.

    Examples
    --------
    >>> from metabook import nas
    >>> space = nas.SearchSpace({"width": [8, 16, 32], "depth": [1, 2, 3]})
    >>> strategy = nas.RegularizedEvolution(
    ...     space, population=4, sample=2, seed=0
    ... )
    >>> nas.search(strategy, lambda arch: arch[0] * arch[1], budget=30).best
    (32, 3)
    """
    if not callable(evaluate):
        raise TypeError(
            f"evaluate is {evaluate!r}; it must be a function of an"
            " architecture, as table.valid is"
        )
    for name, value in (("budget", budget), ("in_flight", in_flight)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    run = _Run(
        strategy,
        evaluate,
        executor,
        None if checkpoint is None else Path(checkpoint),
    )
    run.resume(in_flight)
    result, pending = run.result, run.pending
    if len(result.history) > budget:
        raise ValueError(
            f"{checkpoint} holds {len(result.history)} trials already, more"
            f" than {budget}"
        )
    clock = time.perf_counter() - result.seconds
    bar = tqdm(
        total=budget,
        initial=len(result.history),
        desc="search",
        disable=None if progress else True,
    )
    try:
        while len(result.history) < budget:
            while len(pending) < min(in_flight, budget - len(result.history)):
                if seconds is not None and result.seconds >= seconds:
                    break
                run.propose(strategy.ask())
            if not pending:
                break  # the time is over
            trial = run.outcome(pending[0])
            pending.popleft()
            strategy.tell(trial.architecture, trial.score)
            result.history.append(trial)
            result.seconds = time.perf_counter() - clock
            run.save()
            bar.update()
    finally:
        bar.close()
        run.cancel()
    run.save(now=True)
    return result


def _attempt(
    evaluate: Callable[[Architecture], float], arch: Architecture
) -> tuple[float | None, str | None]:
    """The score, or what went wrong. Runs where the executor runs it; what
    fails outside of it is not the network's fault.
    """
    try:
        score = float(evaluate(arch))
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
    if not math.isfinite(score):
        return None, f"evaluate returned {score}"
    return score, None


class _Run:
    """The state of a search, and the folder that it is kept in."""

    def __init__(
        self,
        strategy: Strategy,
        evaluate: Callable[[Architecture], float],
        executor: Executor | None,
        folder: Path | None,
    ) -> None:
        self.strategy, self.evaluate = strategy, evaluate
        self.executor, self.folder = executor, folder
        self.result = SearchResult()
        self.pending: deque[Architecture] = deque()  # asked and not yet told
        self.memory: dict[Architecture, tuple[float | None, str | None]] = {}
        self.futures: dict[
            Architecture, Future[tuple[float | None, str | None]]
        ] = {}
        self.config: dict[str, Any] = {}
        self.saved = -math.inf

    def propose(self, arch: Architecture) -> None:
        """Note a proposal; a new network goes to the executor."""
        self.pending.append(arch)
        key = self.strategy.space.canonical(arch)
        if (
            self.executor is not None
            and key not in self.memory
            and key not in self.futures
        ):
            self.futures[key] = self.executor.submit(
                _attempt, self.evaluate, arch
            )

    def outcome(self, arch: Architecture) -> Trial:
        """Remember, wait for, or make the evaluation."""
        key = self.strategy.space.canonical(arch)
        known = self.memory.get(key)
        if known is not None:
            return Trial(arch, known[0], True, known[1])
        future = self.futures.get(key)
        score, error = (
            _attempt(self.evaluate, arch) if future is None else future.result()
        )
        self.futures.pop(key, None)
        if error is not None and all(
            e is None for _, e in self.memory.values()
        ):
            warnings.warn(
                f"the evaluation of {arch} failed ({error}); this is recorded,"
                " and the search goes on",
                RuntimeWarning,
                stacklevel=3,
            )
        self.memory[key] = (score, error)
        return Trial(arch, score, False, error)

    def cancel(self) -> None:
        """Take back what the executor has not begun."""
        for future in self.futures.values():
            future.cancel()

    def resume(self, in_flight: int) -> None:
        """Go on from the folder's checkpoint, if its settings are these."""
        if self.folder is None:
            return
        strategy = self.strategy
        # the repr of object names an address in memory
        named = type(strategy).__repr__ is not object.__repr__
        self.config = {
            "strategy": repr(strategy) if named else type(strategy).__name__,
            "decisions": strategy.space.decisions,
            "in_flight": in_flight,
        }
        last = self.folder / "last.pt"
        if not last.exists():
            return
        state = load_state(last)
        changed = [
            k for k, v in self.config.items() if state["config"].get(k) != v
        ]
        if changed:
            raise ValueError(
                f"{self.folder} holds a search with other settings:"
                f" {', '.join(changed)} differ. Choose another folder, or"
                " remove this one"
            )
        strategy.load_state_dict(state["strategy"])
        self.result.history = [Trial(*fields) for fields in state["history"]]
        self.result.seconds = state["seconds"]
        for trial in self.result.history:
            self.memory.setdefault(
                strategy.space.canonical(trial.architecture),
                (trial.score, trial.error),
            )
        for arch in state["pending"]:
            self.propose(arch)

    def save(self, now: bool = False) -> None:
        """Write the checkpoint, then the log up to it; both are small, but not
        so small as to write every trial of a table.
        """
        if self.folder is None or not (
            now or time.monotonic() - self.saved >= SAVE_EVERY
        ):
            return
        history = self.result.history
        save_state(
            self.folder / "last.pt",
            {
                "config": self.config,
                "strategy": self.strategy.state_dict(),
                "history": [tuple(trial) for trial in history],
                "pending": list(self.pending),
                "seconds": self.result.seconds,
            },
        )
        lines = "".join(json.dumps(trial._asdict()) + "\n" for trial in history)
        write_whole(self.folder / "log.jsonl", lines.encode())
        self.saved = time.monotonic()
