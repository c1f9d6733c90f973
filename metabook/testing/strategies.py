# SPDX-License-Identifier: MIT
"""The contract of every search strategy as a test that a course can run on its
own: `check_strategy`.
"""

import tempfile
from pathlib import Path
from typing import Protocol

from metabook.data.files import load_state, save_state
from metabook.data.global_random import watched_random_numbers
from metabook.nas.loop import Strategy, search
from metabook.nas.space import Architecture, SearchSpace

__all__ = ["check_strategy"]


class Make(Protocol):
    """A class of strategies, or a function that makes one."""

    def __call__(self, space: SearchSpace, *, seed: int) -> Strategy:
        """A new strategy."""


def check_strategy(make: Make) -> None:
    """Test whether a search strategy does what `metabook.nas.search` relies on.

    Parameters
    ----------
    make : callable
        ``make(space, seed=seed)`` returns a new strategy, as a class of
        strategies does.

    Raises
    ------
    AssertionError
        If the strategy leaves the space, shares the global random state, cannot
        be repeated, resumed or told of a failure, or does not spend a budget
        exactly.

    Examples
    --------
    >>> import metabook as mb
    >>> check_strategy(mb.nas.RandomSearch)
    >>> check_strategy(
    ...     lambda space, seed: mb.nas.RegularizedEvolution(
    ...         space, population=5, sample=2, seed=seed
    ...     )
    ... )
    """
    choices = ["a", "b", "c"]
    free = SearchSpace(
        {
            "one": choices,
            "two": [1, 2, 4, 8],
            "three": [True, False],
            "four": choices,
        }
    )
    constrained = SearchSpace(
        free.decisions, constraint=lambda a: a[0] != a[3] or a[1] == 1
    )
    for space in (free, constrained):
        _check_proposals(make, space)
        _check_seeds(make, space)
        _check_resuming(make, space)
        _check_budget(make, space)


def _score(arch: Architecture) -> float | None:
    """Anything that depends on the architecture alone, with some failures."""
    value = sum(
        (i + 2) * len(str(choice)) * ord(str(choice)[0])
        for i, choice in enumerate(arch)
    )
    return None if value % 7 == 0 else value / 1000


def _run(strategy: Strategy, steps: int) -> list[Architecture]:
    proposals = []
    for _ in range(steps):
        proposals.append(strategy.ask())
        strategy.tell(proposals[-1], _score(proposals[-1]))
    return proposals


def _check_proposals(make: Make, space: SearchSpace) -> None:
    strategy = make(space, seed=0)
    # more than one proposal before the first score
    waiting = [strategy.ask() for _ in range(10)]
    for arch in waiting:
        assert isinstance(arch, tuple), (
            f"ask() returned {arch!r}; an architecture is a plain tuple of"
            " choices"
        )
        assert arch in space, f"ask() returned {arch}, which is not in {space}"
        strategy.tell(arch, None)  # a search may begin with failures
    for arch in _run(strategy, 60):
        assert arch in space, f"ask() returned {arch}, which is not in {space}"


def _check_seeds(make: Make, space: SearchSpace) -> None:
    with watched_random_numbers() as moved:
        first = _run(make(space, seed=0), 25)
        assert not moved(), (
            "the strategy draws from a global random state; its proposals would"
            " depend on whatever else draws from it: keep a random.Random(seed)"
        )
    again = _run(make(space, seed=0), 25)
    assert first == again, (
        "two strategies with the same seed and the same scores proposed"
        " different architectures"
    )
    assert first != _run(make(space, seed=1), 25), "the seed changes nothing"


def _check_resuming(make: Make, space: SearchSpace) -> None:
    for told in (3, 20):
        strategy, other = make(space, seed=0), make(space, seed=1)
        _run(strategy, told)
        waiting = [strategy.ask() for _ in range(3)]  # asked and not yet told
        _run(other, 5)
        state = strategy.state_dict()
        expected = _finish(strategy, waiting)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state.pt"
            # after going on: a state must not change with its strategy
            save_state(path, state)
            other.load_state_dict(load_state(path))
        same = expected == _finish(other, waiting)
        assert same, (
            "after load_state_dict(state_dict()) the strategy proposes"
            " something else"
        )


def _finish(
    strategy: Strategy, waiting: list[Architecture]
) -> list[Architecture]:
    waiting = [*waiting, strategy.ask(), strategy.ask()]
    for arch in waiting:
        strategy.tell(arch, _score(arch))
    return waiting + _run(strategy, 15)


def _check_budget(make: Make, space: SearchSpace) -> None:
    for in_flight in (1, 3):
        evaluated: list[Architecture] = []

        def evaluate(
            arch: Architecture, evaluated: list[Architecture] = evaluated
        ) -> float:
            evaluated.append(arch)
            return float(arch[1] or 0)

        result = search(
            make(space, seed=0),
            evaluate,
            budget=40,
            in_flight=in_flight,
            progress=False,
        )
        repeated = sum(trial.repeated for trial in result.history)
        assert len(result.history) == 40 == len(evaluated) + repeated, (
            f"a budget of 40 gave {len(evaluated)} evaluations and {repeated}"
            " repeats"
        )
        assert len(set(evaluated)) == len(evaluated), (
            "an architecture was evaluated twice"
        )
        best = max(float(arch[1] or 0) for arch in evaluated)
        assert result.score == best, (
            f"the best score was {best}, and the result says {result.score}"
        )
