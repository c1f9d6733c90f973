# SPDX-License-Identifier: MIT
"""One step of the outer loop: the gradient of a batch of tasks, and the
optimiser's use of it.

Taught in section 2.1 of the book.
"""

import math

import torch
from torch import nn

from metabook.learner.precision import forget_casts
from metabook.learner.protocol import Learner
from metabook.tasks.episode import Episode
from metabook.training.distributed import Processes
from metabook.training.evaluate import device_of

__all__ = ["outer_step"]


def outer_step(
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    episodes: list[Episode],
    iteration: int,
    clip: float | None,
    processes: Processes,
) -> float:
    """Update the parameters once; returns the loss, of all processes.

    Parameters
    ----------
    learner : Learner
    optimizer : torch.optim.Optimizer
    episodes : list of Episode
        One with all tasks, or one a task, with T = 1.
    iteration : int
        How many there were before.
    clip : float, optional
        Largest norm of the gradient.
    processes : Processes
        Those that share the batch.

    Raises
    ------
    FloatingPointError
        If loss or gradient is not finite. Weights and buffers are then, as
        after any other error, those from before.
    """
    buffers = {name: b.clone() for name, b in learner.named_buffers()}
    optimizer.zero_grad()
    learner.zero_grad()  # also of weights that the optimiser has not
    try:
        forget_casts()
        with torch.enable_grad(), processes.own_random(device_of(learner)):
            loss = float(
                learner.backward(episodes[0])
                if len(episodes) == 1
                else learner.backward_each(episodes)
            )
        tasks = sum(map(len, episodes))
        loss = processes.average(learner, loss, tasks, buffers)
        _check_finite(learner, loss, iteration)
    except BaseException:
        for name, before in buffers.items():
            learner.get_buffer(name).copy_(before)
        raise
    if clip is not None:
        nn.utils.clip_grad_norm_(learner.parameters(), clip)
    optimizer.step()
    return loss


def _check_finite(learner: Learner, loss: float, iteration: int) -> None:
    what = [f"the loss is {loss}"] * (not math.isfinite(loss)) + [
        f"the gradient of {name} is not finite"
        for name, p in learner.named_parameters()
        if p.grad is not None and not bool(torch.isfinite(p.grad).all())
    ]
    if what:
        raise FloatingPointError(
            f"{what[0]} at iteration {iteration + 1}; the weights are those of"
            " the iteration before. A smaller step size, in the inner loop"
            " first, is the usual cure; look also for infinite or missing"
            " values in the data"
        )
