# SPDX-License-Identifier: MIT
"""What is searched: a few named decisions, each among named choices.

Taught in section 3.2 of the book. An architecture is a plain tuple with one
choice for each decision, in the order of the decisions. What network it stands
for is the business of whoever evaluates it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, product
from random import Random
from typing import Any, TypeAlias

from metabook.data.settings import described

__all__ = ["Architecture", "Choice", "SearchSpace"]

Choice: TypeAlias = str | int | float | bool | None
#: One choice for each decision of a `SearchSpace`, in their order.
Architecture: TypeAlias = tuple[Choice, ...]

# architectures that are shown to a constraint before it is called impossible
TRIES = 100_000


class SearchSpace:
    """The architectures that may be chosen.

    Parameters
    ----------
    decisions : mapping of str to a sequence of choices
        A choice is a string, a number, a truth value or ``None``, so that it
        can stand in a table or a file.
    constraint : callable, optional
        ``constraint(architecture)`` says whether the architecture may be built.
    canonical : callable, optional
        ``canonical(architecture)`` returns one and the same architecture for
        all that build the same network.

    Attributes
    ----------
    decisions : dict of str to tuple of choices
    choices : tuple of tuple of choices
        The same without the names.

    Raises
    ------
    ValueError
        If there is no decision, or one without choices or with the same choice
        twice.
    TypeError
        If a choice is something else.

    Examples
    --------
    >>> space = SearchSpace(
    ...     {
    ...         "block1": ["conv3", "conv5", "skip"],
    ...         "block2": ["conv3", "skip"],
    ...         "width": [16, 32],
    ...     }
    ... )
    >>> len(space)
    12
    >>> rng = Random(0)
    >>> arch = space.random(rng)
    >>> arch
    ('skip', 'skip', 16)
    >>> space.named(arch)
    {'block1': 'skip', 'block2': 'skip', 'width': 16}
    >>> space.mutate(arch, rng)
    ('conv5', 'skip', 16)
    >>> len(space.neighbours(arch))
    4
    """

    def __init__(
        self,
        decisions: Mapping[str, Sequence[Choice]],
        *,
        constraint: Callable[[Architecture], bool] | None = None,
        canonical: Callable[[Architecture], Architecture] | None = None,
    ) -> None:
        if not isinstance(decisions, Mapping) or not decisions:
            raise ValueError(
                f"decisions is {decisions!r}; give a mapping of at least one"
                " name to its choices"
            )
        for name, choices in decisions.items():
            _check(name, choices)
        self.decisions = {
            name: tuple(choices) for name, choices in decisions.items()
        }
        self.choices = tuple(self.decisions.values())
        self.constraint = constraint
        self._canonical = canonical
        self._size: int | None = None
        self._completable: dict[Architecture, bool] = {}
        # the other choices of each decision, looked up by the one that is taken
        self._others = [
            {taken: tuple(c for c in row if c != taken) for taken in row}
            for row in self.choices
        ]
        self._free = [i for i, row in enumerate(self.choices) if len(row) > 1]

    def __len__(self) -> int:
        """The number of architectures; a constraint sees each of them once."""
        if self._size is None:
            combinations = math.prod(map(len, self.choices))
            if combinations > 2**62:
                raise OverflowError(
                    f"the decisions have {combinations:.1e} combinations, more"
                    " than len() can say"
                )
            free = self.constraint is None
            self._size = combinations if free else sum(1 for _ in self)
        return self._size

    def __iter__(self) -> Iterator[Architecture]:
        """Every architecture, the last decision changing fastest."""
        every = product(*self.choices)
        return filter(self.constraint, every) if self.constraint else every

    def __contains__(self, arch: object) -> bool:
        if not isinstance(arch, tuple) or len(arch) != len(self.choices):
            return False
        pairs = zip(arch, self.choices, strict=True)
        known = all(choice in row for choice, row in pairs)
        return known and (self.constraint is None or self.constraint(arch))

    def __repr__(self) -> str:
        limit = "" if self.constraint is None else ", constrained"
        return f"SearchSpace({self.decisions}{limit})"

    def settings(self) -> dict[str, Any]:
        """What tells this space from others."""
        return {
            # a list, since the order of the decisions counts
            "decisions": [[name, row] for name, row in self.decisions.items()],
            "constraint": described(self.constraint, "constraint"),
            "canonical": described(self._canonical, "canonical"),
        }

    def named(self, arch: Architecture) -> dict[str, Choice]:
        """The architecture with the name of each decision."""
        return dict(zip(self.decisions, arch, strict=True))

    def canonical(self, arch: Architecture) -> Architecture:
        """The one architecture that stands for all of the same network."""
        return arch if self._canonical is None else self._canonical(arch)

    def random(self, rng: Random) -> Architecture:
        """An architecture, all equally likely.

        Raises
        ------
        ValueError
            If none of very many combinations meets the constraint.
        """
        random = rng.random
        for _ in range(TRIES):
            arch = tuple([x[int(random() * len(x))] for x in self.choices])
            if self.constraint is None or self.constraint(arch):
                return arch
        raise ValueError(
            f"none of {TRIES:,} random architectures meets the constraint, for"
            f" example not {arch}. Loosen the constraint, or write the"
            " decisions so that most combinations are allowed"
        )

    def mutate(self, arch: Architecture, rng: Random) -> Architecture:
        """A copy with exactly one decision changed.

        Which one, and to which other choice, is drawn at random; where there is
        a constraint, among those that meet it.

        Raises
        ------
        ValueError
            If there is no other architecture one decision away.
        """
        if self.constraint is None and self._free:
            i = self._free[int(rng.random() * len(self._free))]
            others = self._others[i][arch[i]]
            other = others[int(rng.random() * len(others))]
            return (*arch[:i], other, *arch[i + 1 :])
        for i in rng.sample(self._free, len(self._free)):
            if allowed := self._changed(arch, i):
                return rng.choice(allowed)
        raise ValueError(
            f"no architecture that may be built differs from {arch} in one"
            " decision: it cannot be mutated. Loosen the constraint, or search"
            " with RandomSearch, which needs no neighbours"
        )

    def neighbours(self, arch: Architecture) -> list[Architecture]:
        """Every architecture that differs in exactly one decision."""
        return [other for i in self._free for other in self._changed(arch, i)]

    def _changed(self, arch: Architecture, i: int) -> list[Architecture]:
        changed = [
            (*arch[:i], other, *arch[i + 1 :])
            for other in self._others[i][arch[i]]
        ]
        if self.constraint is None:
            return changed
        return [a for a in changed if self.constraint(a)]

    def allowed(self, prefix: Architecture) -> tuple[Choice, ...]:
        """The choices with which a partial architecture can go on, and still
        meet the constraint.

        Parameters
        ----------
        prefix : tuple of choices
            The first decisions, fewer than all.

        Raises
        ------
        ValueError
            If very many completions were tried and none meets the constraint.
        """
        row = self.choices[len(prefix)]
        if self.constraint is None:
            return row
        return tuple(c for c in row if self._can_be_completed((*prefix, c)))

    def _can_be_completed(self, prefix: Architecture) -> bool:
        assert self.constraint is not None
        if prefix not in self._completable:
            rest = product(*self.choices[len(prefix) :])
            found = any(
                self.constraint((*prefix, *end)) for end in islice(rest, TRIES)
            )
            if not found and next(rest, None) is not None:
                raise ValueError(
                    f"none of {TRIES:,} architectures that begin with {prefix}"
                    " meets the constraint. Put the decisions that it speaks"
                    " of first, or loosen it"
                )
            self._completable[prefix] = found
        return self._completable[prefix]


def _check(name: str, choices: Sequence[Choice]) -> None:
    if isinstance(choices, str) or not choices:
        raise ValueError(
            f"decision {name!r} has the choices {choices!r}; give a list of at"
            " least one"
        )
    for choice in choices:
        if not isinstance(choice, str | int | float | None):
            raise TypeError(
                f"decision {name!r} has the choice {choice!r}, a"
                f" {type(choice).__name__}; a choice is a name or a number, and"
                " evaluate turns it into a network"
            )
    if len(set(choices)) < len(choices):
        raise ValueError(
            f"decision {name!r} has a choice twice: {list(choices)}"
        )
