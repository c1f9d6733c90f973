# SPDX-License-Identifier: MIT
"""All that the next iteration of a training depends on, to be saved and taken
up again.
"""

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from metabook.data.digests import tensor_digest
from metabook.data.settings import described, differences
from metabook.learner.protocol import Learner
from metabook.training.history import History
from metabook.training.schedules import StepSizes
from metabook.training.scores import Score

__all__ = ["KEYS", "TrainingState", "optimizer_settings"]

KEYS = {"start", "learner", "optimizer", "schedule", "losses", "validations"}
KEYS |= {"best_iteration", "best_weights", "seconds", "random", "cuda_random"}

# options of torch's optimisers that change the speed, and not the result
_EXECUTION = {"fused", "foreach", "capturable", "differentiable"}

# what learners of this program had for weights when they were last trained,
# with those that they began from: after an error a run goes on with them
_left: WeakKeyDictionary[Learner, tuple[dict[str, str], dict[str, str]]]
_left = WeakKeyDictionary()


class TrainingState:
    """A learner in training, with its optimiser, step sizes and history.

    Attributes
    ----------
    start : dict of str to str
        Digests of the weights that the run began with.
    best_weights : dict of Tensor, optional
        The learner's state at its best validation.
    """

    def __init__(
        self,
        learner: Learner,
        optimizer: torch.optim.Optimizer,
        steps: StepSizes,
    ) -> None:
        self.learner, self.optimizer, self.steps = learner, optimizer, steps
        self.history = History()
        self.start: dict[str, str] = {}
        self.best_weights: dict[str, Tensor] | None = None

    def validated(self, score: Score) -> None:
        """Record a validation, and keep the weights if they are the best so
        far.
        """
        history, done = self.history, len(self.history.losses)
        best = history.best
        history.validations.append((done, score.mean, score.ci95))
        if score.better_than(best and best[0]):
            history.best_iteration = done
            self.best_weights = {
                name: w.detach().clone()
                for name, w in self.learner.state_dict().items()
            }

    def state_dict(self) -> dict[str, Any]:
        """The state, with the keys of `KEYS`."""
        history, scheduler = self.history, self.steps.torch
        return {
            "start": self.start,
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": scheduler and scheduler.state_dict(),
            # as one tensor: a long list takes longer than the weights
            "losses": torch.tensor(history.losses, dtype=torch.float64),
            "validations": history.validations,
            "best_iteration": history.best_iteration,
            "best_weights": self.best_weights,
            "seconds": history.seconds,
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state_all(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken."""
        self.start = state["start"]
        self.learner.load_state_dict(state["learner"])
        self._load_optimizer(state["optimizer"])
        if self.steps.torch is not None:
            self.steps.torch.load_state_dict(state["schedule"])
        self.history.losses[:] = state["losses"].tolist()
        self.history.validations[:] = state["validations"]
        self.history.best_iteration = state["best_iteration"]
        self.history.seconds = state["seconds"]
        self.best_weights = state["best_weights"]
        torch.set_rng_state(state["random"])
        if len(state["cuda_random"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_random"])

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        """Load, but keep options that only this version of torch has, and those
        that do not change the result.
        """
        groups = state["param_groups"]
        for own, saved in zip(self.optimizer.param_groups, groups, strict=True):
            for key, value in own.items():
                if key not in saved or key in _EXECUTION:
                    saved[key] = value
        self.optimizer.load_state_dict(state)

    def begin(self, state: dict[str, Any] | None, best: Path) -> None:
        """Note the weights that the run begins with; or go on from a state, if
        the learner has the weights that the run had at its first, last or best
        iteration, which lie in the file ``best``.

        Raises
        ------
        ValueError
            If it has others.
        """
        now = digests(self.learner.state_dict())
        if state is None:
            self.start = now
            return
        start = state["start"]
        known = [start, digests(state["learner"])]
        known.append(digests(state["best_weights"] or {}))
        if now not in known and _left.get(self.learner) != (start, now):
            names = [d.split(" ")[0] for d in differences(start, now)]
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(
                f"the initial weights differ: {names[0]}{more}. Make the"
                " learner after the same torch.manual_seed, or give it the"
                f" run's, learner.load_state_dict(torch.load({str(best)!r}))"
            )
        self.load_state_dict(state)

    def finish(self) -> None:
        """Give the learner its best weights, in evaluation mode."""
        if self.best_weights is not None:
            self.learner.load_state_dict(self.best_weights)
        self.learner.eval()

    def leave(self) -> None:
        """Note with which weights the learner is left."""
        _left[self.learner] = self.start, digests(self.learner.state_dict())


def digests(weights: dict[str, Any]) -> dict[str, str]:
    """A digest of every tensor, by its name."""
    return {
        name: tensor_digest(w)
        for name, w in weights.items()
        if isinstance(w, Tensor)
    }


def optimizer_settings(
    optimizer: torch.optim.Optimizer,
) -> list[dict[str, Any]]:
    """The options of every group of parameters by name, but not the step sizes,
    which a schedule moves.
    """
    kind = type(optimizer)
    return [
        {"class": f"{kind.__module__}.{kind.__qualname__}"}
        | {
            key: described(value, f"{kind.__name__}.{key}")
            for key, value in group.items()
            if key not in {"params", "lr", "initial_lr"} | _EXECUTION
        }
        for group in optimizer.param_groups
    ]
