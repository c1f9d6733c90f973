# SPDX-License-Identifier: MIT
"""What `maml.py` times: one outer iteration, in several sizes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

import metabook as mb


@dataclass(frozen=True)
class Work:
    """One outer iteration: 25 sine waves, or few-shot tasks on drawings of 28 x
    28, with Adam at its defaults.
    """

    # sinusoid: 10 points, 10 queries; conv: one drawing and 15 queries a class
    data: str
    tasks: int
    inner_steps: int
    first_order: bool
    threads: int
    way: int = 0  # classes of a task; none for sine waves
    calls: int = 1  # iterations in a row that are timed together
    rounds: int = 4

    @property
    def name(self) -> str:
        """What it is called on the command line and in the result."""
        order = "first" if self.first_order else "second"
        return (
            f"{self.data}{self.way or ''}-{self.inner_steps}step-{order}"
            f"-{self.threads}thread"
        )

    @property
    def inner_lr(self) -> float:
        """The step sizes of the MAML paper."""
        return 0.4 if self.way else 0.01

    @property
    def loss_fn(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Cross-entropy for classes."""
        return F.cross_entropy if self.way else F.mse_loss

    def episode(self) -> mb.Episode:
        """The tasks, the same for everyone."""
        if not self.way:
            return mb.Sinusoids(shot=10, query=10, seed=0).sample(self.tasks)
        return mb.FewShotTasks(
            mb.glyphs(classes=100, seed=0),
            way=self.way,
            shot=1,
            query=15,
            seed=0,
        ).sample(self.tasks)


STEPS_AND_ORDERS = [
    (steps, first_order) for first_order in (False, True) for steps in (1, 5)
]
WORKS = [
    *(
        Work("sinusoid", 25, steps, first_order, threads=1, calls=20, rounds=10)
        for steps, first_order in STEPS_AND_ORDERS
    ),
    *(
        Work("conv", 32, steps, first_order, threads, way=5)
        for threads in (1, 2)
        for steps, first_order in STEPS_AND_ORDERS
    ),
    Work("conv", 4, 5, False, threads=2, way=20),
]
MEMORY = Work("conv", 32, 1, False, threads=2, way=5)
