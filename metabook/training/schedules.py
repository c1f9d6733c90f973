# SPDX-License-Identifier: MIT
"""How step sizes change while training: by a name, a function of the share that
is done, or a scheduler of torch.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from metabook.data.settings import described

__all__ = ["Schedule", "StepSizes", "half_cosine"]

Schedule: TypeAlias = str | Callable[[float], float] | LRScheduler | None

# of torch's schedulers: what moves while they are stepped
_MOVING = {"last_epoch", "T_cur", "T_i", "_step_count", "_last_lr"}
_MOVING |= {"_get_lr_called_within_step", "_is_initial", "optimizer"}


def constant(done: float) -> float:
    """All of the step size, whatever share of the training is done."""
    return 1.0


def half_cosine(done: float) -> float:
    """What is left of a step size that falls to zero along half a cosine, when
    this share of the training is done.

    Examples
    --------
    >>> half_cosine(0.0), half_cosine(0.5), half_cosine(1.0)
    (1.0, 0.5, 0.0)
    """
    return 0.5 + 0.5 * math.cos(math.pi * done)


NAMED = {"constant": constant, "cosine": half_cosine}


class StepSizes:
    """The step sizes of an optimiser while it trains.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    schedule : str, callable or LRScheduler, optional
        One of `NAMED`, or a function from the share done, 0 to 1, to the factor
        of the step sizes; or a scheduler of torch over this optimiser, stepped
        once an iteration.
    iterations : int
        Of the whole training.

    Raises
    ------
    ValueError
        If there is no such schedule, the scheduler belongs to another
        optimiser, or waits for validation scores.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        iterations: int,
    ) -> None:
        if isinstance(schedule, str) and schedule not in NAMED:
            raise ValueError(
                f"schedule is {schedule!r}; choose one of"
                f" {', '.join(map(repr, NAMED))}, or give a function or a"
                " scheduler of torch"
            )
        if isinstance(schedule, ReduceLROnPlateau):
            raise ValueError(
                "ReduceLROnPlateau waits for a score, and a schedule is stepped"
                " once an iteration: choose another, or call it yourself from"
                " on_iteration"
            )
        self.torch = schedule if isinstance(schedule, LRScheduler) else None
        if self.torch is not None and self.torch.optimizer is not optimizer:
            raise ValueError(
                "the scheduler changes another optimiser than the one that"
                " trains: give both, optimizer=sgd, schedule=StepLR(sgd, ...)"
            )
        self.optimizer, self.iterations = optimizer, iterations
        self.name = schedule or "constant"
        self.factor: Callable[[float], float] = constant
        if isinstance(schedule, str):
            self.factor = NAMED[schedule]
        elif schedule is not None and not isinstance(schedule, LRScheduler):
            self.factor = schedule
        # the step sizes that a schedule starts from; torch's notes them
        lr = "lr" if self.torch is None else "initial_lr"
        self.base = [float(group[lr]) for group in optimizer.param_groups]

    def settings(self) -> dict[str, Any]:
        """What tells this schedule from another."""
        if self.torch is not None:
            return _scheduler(self.torch)
        name = described(self.name, "schedule")
        # what depends on the share that is done depends on the whole
        whole = {} if name == "constant" else {"iterations": self.iterations}
        return {"name": name} | whole

    def set(self, done: int) -> None:
        """Set the step sizes before the iteration after so many."""
        if self.torch is not None:
            return
        share = done / self.iterations
        factor = float(self.factor(share))
        if not 0 <= factor < math.inf:
            raise ValueError(
                f"schedule({share}) is {factor}; it must be a finite factor,"
                " from 0"
            )
        for group, base in zip(
            self.optimizer.param_groups, self.base, strict=True
        ):
            group["lr"] = base * factor

    def step(self) -> None:
        """Tell torch's scheduler that an iteration is over."""
        if self.torch is not None:
            self.torch.step()

    def give_back(self) -> None:
        """Leave the optimiser with the step sizes that it came with."""
        if self.torch is None:
            for group, base in zip(
                self.optimizer.param_groups, self.base, strict=True
            ):
                group["lr"] = base


def _scheduler(scheduler: Any) -> dict[str, Any]:
    """Settings of a scheduler of torch, and of those inside of it."""
    kind = type(scheduler)
    found: dict[str, Any] = {"class": f"{kind.__module__}.{kind.__qualname__}"}
    for key, value in vars(scheduler).items():
        if key == "_schedulers":
            found[key] = [_scheduler(part) for part in value]
        elif key not in _MOVING:
            try:
                found[key] = described(value, f"schedule.{key}")
            except TypeError:
                if not key.startswith("_"):
                    raise
    return found
