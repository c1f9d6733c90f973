# SPDX-License-Identifier: MIT
"""Reptile: train on a task, and move a little towards where that led.

    phi_i = theta after k gradient steps on task i
    theta <- theta + epsilon * mean_i (phi_i - theta)

Nichol, Achiam & Schulman, *On First-Order Meta-Learning Algorithms*, 2018,
https://arxiv.org/abs/1803.02999. Taught in sections 3.1 and 4.1 of the book.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabook.learner.losses import LossFn
from metabook.learner.precision import refuse_half_precision
from metabook.optimization.checks import refuse_hooks_of_weights
from metabook.optimization.inner_loop import add_to_grad
from metabook.optimization.maml import MAML
from metabook.tasks.episode import Episode

__all__ = ["Reptile"]


class Reptile(MAML):
    """MAML without a derivative of the inner loop, and without a split into
    support and query in training.

    `backward` leaves ``theta - mean_i phi_i`` in ``.grad``, so that plain
    gradient descent with step size epsilon is the paper's update:
    ``optimizer=torch.optim.SGD(learner.parameters(), lr=1.0)``. A training task
    is all of its examples, support and query together. At test it adapts to the
    support set, like MAML.

    Parameters
    ----------
    model : nn.Module
    inner_lr : float
    inner_steps : int
        Several: with one, Reptile is joint training.
    loss_fn, vectorized, threads
        As in `MAML`.

    References
    ----------
    Nichol, Achiam & Schulman, 2018, https://arxiv.org/abs/1803.02999

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.Reptile(
    ...     mb.MLP(1, 1),
    ...     inner_lr=0.02,
    ...     inner_steps=5,
    ...     loss_fn=torch.nn.functional.mse_loss,
    ... )
    >>> sgd = torch.optim.SGD(learner.parameters(), lr=0.1)
    >>> history = mb.train(
    ...     learner,
    ...     mb.Sinusoids(),
    ...     iterations=3,
    ...     tasks_per_batch=5,
    ...     optimizer=sgd,
    ... )
    """

    def __init__(
        self,
        model: nn.Module,
        inner_lr: float = 0.01,
        inner_steps: int = 5,
        *,
        loss_fn: LossFn = F.cross_entropy,
        vectorized: bool | None = None,
        threads: int | None = None,
    ) -> None:
        super().__init__(
            model,
            inner_lr,
            inner_steps,
            loss_fn=loss_fn,
            vectorized=vectorized,
            threads=threads,
        )

    def extra_repr(self) -> str:
        """The settings, for printing."""
        return f"inner_lr={self.inner_lr}, inner_steps={self.inner_steps}"

    def check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Warn that another optimiser than plain gradient descent makes
        another update than the paper's.
        """
        plain = isinstance(optimizer, torch.optim.SGD) and not any(
            group["momentum"] or group["weight_decay"]
            for group in optimizer.param_groups
        )
        if not plain:
            warnings.warn(
                f"Reptile under {type(optimizer).__name__} is not the paper's"
                " update, theta + epsilon * (phi - theta): for that, train"
                " with optimizer=torch.optim.SGD(learner.parameters(), lr=1.0)",
                stacklevel=3,
            )

    def loss(self, episode: Episode) -> Tensor:
        """Raises: Reptile's update is the gradient of no loss."""
        raise NotImplementedError(
            "Reptile's update is not the gradient of a loss: call"
            " backward(episode), which adds it to .grad and returns the loss"
            " after the inner loop"
        )

    def differentiates_twice(self) -> bool:
        """No: the update is made of first derivatives."""
        return False

    def backward(self, episode: Episode) -> float:
        """Add ``theta - mean_i phi_i`` to ``.grad``, and return the mean loss
        after the inner loop.
        """
        refuse_half_precision(self.adapted())
        refuse_hooks_of_weights(self)
        return super().backward(episode)

    def add_gradient(self, part: Episode, way: int | None, tasks: int) -> float:
        """Add this part's share of ``theta - mean_i phi_i`` to ``.grad``, and
        return its share of the loss after the inner loop, on the same examples.
        """
        x = torch.cat([part.support_x, part.query_x], dim=1)
        y = torch.cat([part.support_y, part.query_y], dim=1)
        with torch.no_grad():
            phi = self.learn(x, y, way)
            for name, theta in self.adapted().items():
                add_to_grad(theta, (theta - phi[name]).sum(dim=0) / tasks)
            return float(self.query_loss(phi, x, y, way)) / tasks
