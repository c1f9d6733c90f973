# SPDX-License-Identifier: MIT
"""REINFORCE: a distribution over architectures that follows the gradient of the
expected score.

    grad E[R(a)] = E[(R(a) - b) grad log p(a)]

    p(a) = product over d of p(a_d | a_1 ... a_{d-1})

for any b that does not depend on a. Here b is a moving average of the scores
*before* this one. The distribution is a *controller*: a recurrent network, as
in Zoph & Le, or one softmax for each decision, which cannot make one choice
depend on another.

Williams, 1992, https://doi.org/10.1007/BF00992696; Zoph & Le, *Neural
Architecture Search with Reinforcement Learning*, 2017,
https://arxiv.org/abs/1611.01578. Taught in section 3.2 of the book.
"""

import copy
from random import Random
from typing import Any

import numpy as np
import torch

from metabook.data.random import check_seed
from metabook.nas.controllers import IndependentController, LSTMController
from metabook.nas.space import Architecture, Choice, SearchSpace

__all__ = ["Reinforce"]


class Reinforce:
    """Sample from a controller, and make what scored above average likelier.

    Parameters
    ----------
    space : SearchSpace
        An architecture that its constraint forbids has probability 0: each
        choice is drawn among those that can still be completed.
    controller : {"lstm", "independent"}
    lr : float, optional
        Step size of Adam; 0.005 for the LSTM and 0.1 for independent softmaxes
        unless given.
    entropy : float
        Weight of the entropy of each choice given those before it, in units of
        the score. The gradient leaves out how earlier choices change the
        entropy of later ones.
    decay : float
        Of the moving average of the scores; the first score only sets it.
    hidden : int
        Width of the LSTM's two layers.
    seed : int

    Attributes
    ----------
    baseline : float or None
        The moving average; a plain number, so no gradient passes.

    Raises
    ------
    ValueError
        If there is no such controller, or a setting makes no sense.

    References
    ----------
    Zoph & Le, 2017, https://arxiv.org/abs/1611.01578

    Notes
    -----
    The gradient is that of the controller as it is when the score is told. With
    ``in_flight`` > 1 the architecture was drawn a few updates earlier, and the
    estimate is slightly biased.

    Examples
    --------
    >>> space = SearchSpace({"width": [8, 16, 32], "depth": [1, 2, 3]})
    >>> strategy = Reinforce(space, controller="independent", seed=0)
    >>> for _ in range(100):
    ...     arch = strategy.ask()
    ...     strategy.tell(arch, score=arch[0] / 32)
    >>> strategy.probabilities()[32] > 0.9
    True
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        controller: str = "lstm",
        lr: float | None = None,
        entropy: float = 0.0,
        decay: float = 0.9,
        hidden: int = 35,
        seed: int = 0,
    ) -> None:
        if controller not in ("lstm", "independent"):
            raise ValueError(
                f"controller is {controller!r}; choose 'lstm' or 'independent'"
            )
        if not 0 <= decay < 1:
            raise ValueError(
                f"decay is {decay}; it must be at least 0 and below 1"
            )
        if lr is not None and not lr > 0:
            raise ValueError(f"lr is {lr}; it must be positive")
        if not entropy >= 0:
            raise ValueError(
                f"entropy is {entropy}; as the weight of a bonus it is at least"
                " 0"
            )
        if not isinstance(hidden, (int, np.integer)) or hidden < 1:
            raise ValueError(
                f"hidden is {hidden!r}; it must be an integer from 1"
            )
        self.space, self.entropy, self.decay = space, entropy, decay
        self.kind, self.hidden = controller, hidden
        self.seed = check_seed(seed)
        self.rng = Random(self.seed)
        lstm = controller == "lstm"
        self.lr = (0.005 if lstm else 0.1) if lr is None else lr
        self.controller = (
            LSTMController(space, hidden=hidden, seed=seed)
            if lstm
            else IndependentController(space)
        )
        self.optimizer = torch.optim.Adam(
            self.controller.parameters(), lr=self.lr, maximize=True, fused=True
        )
        self.baseline: float | None = None
        self.worst: float | None = None

    def __repr__(self) -> str:
        return (
            f"Reinforce({self.kind!r}, lr={self.lr}, entropy={self.entropy},"
            f" decay={self.decay})"
        )

    def settings(self) -> dict[str, Any]:
        """What tells this strategy from another."""
        return {
            "controller": self.kind,
            "hidden": self.hidden if self.kind == "lstm" else None,
            "lr": self.lr,
            "entropy": self.entropy,
            "decay": self.decay,
            "seed": self.seed,
        }

    @torch.no_grad()
    def probabilities(self, prefix: Architecture = ()) -> dict[Choice, float]:
        """How likely each choice of the next decision is, after these first
        choices.
        """
        log_p, _ = self.controller.log_p(prefix)
        row, p = self.space.choices[len(prefix)], log_p[-1].exp().tolist()
        return dict(zip(row, p[: len(row)], strict=True))

    @torch.no_grad()
    def log_prob(self, arch: Architecture) -> float:
        """``log p(arch)``, of the whole sequence of choices."""
        log_p, _ = self.controller.log_p(arch[:-1])
        return float(log_p.gather(1, self.controller.columns(arch)).sum())

    def ask(self) -> Architecture:
        """Draw the choices one after another."""
        return self.controller.draw(self.rng)

    def tell(self, arch: Architecture, score: float | None) -> None:
        """Take one step along the gradient; a failure counts as the worst."""
        if score is None:
            if self.worst is None:
                return
            score = self.worst
        # of a tensor too: no gradient passes through score or baseline
        score = float(score)
        self.worst = score if self.worst is None else min(score, self.worst)
        if self.baseline is None:
            self.baseline = score
            return
        # the baseline of the scores before: one that held this score would
        # shrink the step
        self.controller.backward(arch, score - self.baseline, self.entropy)
        self.optimizer.step()
        self.baseline = self.decay * self.baseline + (1 - self.decay) * score

    def state_dict(self) -> dict[str, Any]:
        """Controller, optimiser, baseline and random state."""
        return {
            "controller": {
                name: p.clone()
                for name, p in self.controller.state_dict().items()
            },
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "baseline": self.baseline,
            "worst": self.worst,
            "random": self.rng.getstate(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken."""
        self.controller.load_state_dict(state["controller"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.baseline, self.worst = state["baseline"], state["worst"]
        self.rng.setstate(state["random"])
