# SPDX-License-Identifier: MIT
"""The outer loop of architecture search: ask, evaluate, tell.

Taught in section 3.2 of the book.
"""

import json
import math
import os
import time
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any, Protocol, TypeAlias

from metabook.data.progress import progress_bar
from metabook.data.settings import described, settings
from metabook.nas.space import Architecture, SearchSpace
from metabook.nas.trials import SearchResult, Trial
from metabook.training.checkpoints import RunFolder
from metabook.training.interrupts import CtrlC

__all__ = ["Strategy", "search"]

SAVE_EVERY = 1.0  # seconds between two checkpoints, at least
SHARE = 0.05  # of the time that saving may take
KEYS = {"strategy", "told", "history", "pending", "evaluated", "seconds"}

# a score, or what went wrong
_Outcome: TypeAlias = tuple[float | None, str | None]


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


def search(
    strategy: Strategy,
    evaluate: Callable[[Architecture], float],
    budget: int,
    *,
    seconds: float | None = None,
    executor: Executor | None = None,
    in_flight: int = 1,
    checkpoint: str | os.PathLike[str] | None = None,
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
        1: threads, processes, or the machines of a cluster, as of Dask's
        ``Client.get_executor()``. Processes need an ``evaluate`` that can be
        pickled.
    in_flight : int
        Proposals made before the first of them is told. Scores are told in the
        order asked, so the run depends on this number and never on how many
        workers there are or how fast they are.
    checkpoint : path, optional
        Folder for ``last.pt`` and ``log.jsonl`` (one trial a line), written
        every second and at the end. After an interruption the same line again
        goes on from there, and ends with the bits of an uninterrupted run. A
        finished search goes on with a larger budget. A folder that holds a
        search with another strategy, space, ``evaluate`` or ``in_flight`` is
        refused; a strategy or an ``evaluate`` of your own is known by its
        method ``settings()``.
    progress : bool
        Show a bar, on a terminal or in a notebook.

    Returns
    -------
    SearchResult

    Raises
    ------
    ValueError
        If the folder holds a search with other settings or a longer one.
    TypeError
        With a folder, if it cannot be seen what tells the strategy, or
        ``evaluate``, from another.
    OSError
        If the folder is being written by another process, or cannot be written.
    BrokenExecutor
        If the executor has lost a worker and cannot go on; the folder keeps all
        that was evaluated.

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
    run = _Run(strategy, evaluate, executor)
    folder = RunFolder(
        checkpoint,
        "search",
        KEYS,
        lambda: {
            "strategy": settings(strategy, "strategy"),
            "space": settings(strategy.space, "space"),
            "evaluate": described(evaluate, "evaluate"),
            "in_flight": in_flight,
        },
    )
    history, pending = run.result.history, run.pending
    with (
        folder.opened(lambda state: state["told"] >= budget) as state,
        CtrlC() as ctrl_c,
        progress_bar(total=budget, desc="search", show=progress) as bar,
    ):
        if state is not None:
            with folder.naming():
                run.load_state_dict(state)
        if len(history) > budget:
            raise ValueError(
                f"{checkpoint} holds {len(history)} trials already, more than"
                f" {budget}"
            )
        bar.update(before := len(history))
        clock = time.perf_counter() - run.result.seconds
        try:
            while len(history) < budget:
                while len(pending) < min(in_flight, budget - len(history)):
                    if seconds is not None and run.result.seconds >= seconds:
                        break
                    run.propose(strategy.ask())
                if not pending:
                    break  # the time is over
                try:
                    with ctrl_c.let_through():
                        trial = run.outcome(pending[0])
                except BaseException:
                    run.save(folder)  # what is done is kept
                    raise
                pending.popleft()
                strategy.tell(trial.architecture, trial.score)
                history.append(trial)
                run.result.seconds = time.perf_counter() - clock
                if time.monotonic() >= run.next_save:
                    run.save(folder)
                bar.update()
        finally:
            run.cancel()
        if len(history) > before:
            run.save(folder)
        ctrl_c.check()
    return run.result


def _attempt(
    evaluate: Callable[[Architecture], float], arch: Architecture
) -> _Outcome:
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
    """All that a search depends on beside its settings."""

    def __init__(
        self,
        strategy: Strategy,
        evaluate: Callable[[Architecture], float],
        executor: Executor | None,
    ) -> None:
        self.strategy, self.evaluate = strategy, evaluate
        self.executor = executor
        self.result = SearchResult()
        self.pending: deque[Architecture] = deque()  # asked and not yet told
        self.memory: dict[Architecture, _Outcome] = {}
        self.evaluated: dict[Architecture, _Outcome] = {}  # and not yet told
        self.futures: dict[Architecture, Future[_Outcome]] = {}
        self.next_save = time.monotonic() + SAVE_EVERY

    def propose(self, arch: Architecture) -> None:
        """Note a proposal; a new network goes to the executor."""
        self.pending.append(arch)
        key = self.strategy.space.canonical(arch)
        known = (self.memory, self.evaluated, self.futures)
        if self.executor is not None and not any(key in d for d in known):
            self.futures[key] = self._submitted(arch, self.executor)

    def _submitted(
        self, arch: Architecture, executor: Executor
    ) -> "Future[_Outcome]":
        try:
            return executor.submit(_attempt, self.evaluate, arch)
        except BrokenExecutor as error:  # heard when its turn comes
            broken: Future[_Outcome] = Future()
            broken.set_exception(error)
            return broken

    def outcome(self, arch: Architecture) -> Trial:
        """Remember, wait for, or make the evaluation."""
        key = self.strategy.space.canonical(arch)
        if key in self.memory:
            score, error = self.memory[key]
            return Trial(arch, score, True, error)
        if key in self.evaluated:
            score, error = self.evaluated.pop(key)
        elif key in self.futures:
            score, error = self._awaited(self.futures[key])
            del self.futures[key]
        else:
            score, error = _attempt(self.evaluate, arch)
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

    def _awaited(self, future: "Future[_Outcome]") -> _Outcome:
        try:
            return future.result()
        except BrokenExecutor as error:
            told = len(self.result.history)
            raise type(error)(
                f"a worker has died, and with it the executor, after {told:,}"
                f" trials ({error}). Look for the memory that evaluate takes,"
                " and for a crash in it. With a new executor and a checkpoint"
                " folder, the same line goes on with what was lost"
            ) from error

    def cancel(self) -> None:
        """Take back what the executor has not begun."""
        for future in self.futures.values():
            future.cancel()

    def state_dict(self) -> dict[str, Any]:
        """The state, with the keys of `KEYS`."""
        done = {
            key: future.result()
            for key, future in self.futures.items()
            if future.done()
            and not future.cancelled()
            and future.exception() is None
        }
        return {
            "strategy": self.strategy.state_dict(),
            "told": len(self.result.history),
            # one string: many small values take long to load
            "history": json.dumps(self.result.history),
            "pending": list(self.pending),
            "evaluated": list((self.evaluated | done).items()),
            "seconds": self.result.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken."""
        strategy, result = self.strategy, self.result
        strategy.load_state_dict(state["strategy"])
        for arch, *rest in json.loads(state["history"]):
            result.history.append(Trial(tuple(arch), *rest))
        result.seconds = state["seconds"]
        for trial in result.history:
            self.memory.setdefault(
                strategy.space.canonical(trial.architecture),
                (trial.score, trial.error),
            )
        self.evaluated = dict(state["evaluated"])
        for arch in state["pending"]:
            self.propose(arch)

    def save(self, folder: RunFolder) -> None:
        """Save, and not again for a while: tables answer faster than disks."""
        if folder.path is None:
            return
        before, history = time.monotonic(), self.result.history
        folder.save(
            self.state_dict(),
            lambda first: (trial._asdict() for trial in history[first:]),
        )
        now = time.monotonic()
        pause = (now - before) / SHARE
        self.next_save = now + max(SAVE_EVERY, pause)
