# SPDX-License-Identifier: MIT
"""MAML: learn the weights from which a few gradient steps learn a new task.

    theta_i = theta - lr * grad L_support,i(theta)     inner loop, k times
    min over theta of  mean_i L_query,i(theta_i)       outer loop

Finn, Abbeel & Levine, *Model-Agnostic Meta-Learning for Fast Adaptation of Deep
Networks*, 2017, https://arxiv.org/abs/1703.03400. Taught in sections 3.1, 4.1
and 5.1 of the book.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabook.learner.losses import LossFn
from metabook.optimization.execution.choice import Execution
from metabook.optimization.execution.side_by_side import call
from metabook.optimization.inner_loop import Weights
from metabook.optimization.learner import InnerLoopLearner
from metabook.tasks.episode import Episode

__all__ = ["MAML"]


class MAML(InnerLoopLearner):
    """Model-agnostic meta-learning, of second order unless said otherwise.

    Parameters
    ----------
    model : nn.Module
        Any network of floating inputs; for classes, its outputs are as wide as
        a task has classes. All of its parameters that require gradients are
        adapted.
    inner_lr : float
        Step size of the inner loop.
    inner_steps : int
        Steps of the inner loop, in training and, unless ``steps=`` says
        otherwise, at test.
    first_order : bool
        Leave out the derivative of the inner gradient (FOMAML): cheaper, and
        another gradient.
    loss_fn : callable
        Cross-entropy for classes; ``torch.nn.functional.mse_loss`` for
        regression.
    vectorized : bool, optional
        Compute tasks side by side, up to 32 at once, or one after another.
        Unless given, whichever is faster: side by side for multilayer
        perceptrons, and on a GPU; one after another for other networks on a
        CPU.
    threads : int, optional
        Tasks one after another on so many cores at once, in `backward`; as many
        as torch uses, unless given, and 1 for a model that draws random
        numbers, as for dropout.
    query_dtype : torch.dtype, optional
        Compute the query pass under autocast to this type, such as
        ``torch.bfloat16``, where the processor is faster at it; the inner loop
        keeps its precision. The gradient then errs by 1 to 13 % of its length.
    compiled : bool
        Compile the outer gradient, tasks side by side: half a minute for each
        shape of tasks and a C++ compiler, for a multiple of the speed on small
        networks.

    Raises
    ------
    ValueError
        If the model has normalisation with running statistics (tasks would see
        each other through them), nothing to adapt, or a layer that cannot be
        vectorized although this was asked for.
    RuntimeError
        By `backward`, if the second derivatives of the model are wrong, as with
        torch's weight norm. That is tried once, on the first task; the
        environment variable ``METABOOK_PROBE=0`` switches it off.

    References
    ----------
    Finn, Abbeel & Levine, 2017, https://arxiv.org/abs/1703.03400

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.MAML(mb.MLP(1, 1), inner_lr=0.01, loss_fn=F.mse_loss)
    >>> episode = mb.Sinusoids(shot=10, query=20).sample(4)
    >>> learner(
    ...     episode.support_x, episode.support_y, episode.query_x, steps=5
    ... ).shape
    torch.Size([4, 20, 1])
    """

    def __init__(
        self,
        model: nn.Module,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        *,
        first_order: bool = False,
        loss_fn: LossFn = F.cross_entropy,
        vectorized: bool | None = None,
        threads: int | None = None,
        query_dtype: torch.dtype | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__(
            model,
            inner_lr,
            inner_steps,
            first_order=first_order,
            loss_fn=loss_fn,
            query_dtype=query_dtype,
            execution=Execution(model, vectorized, threads, compiled),
        )

    def extra_repr(self) -> str:
        """The settings, for printing."""
        order = "first" if self.first_order else "second"
        text = (
            f"inner_lr={self.inner_lr}, inner_steps={self.inner_steps},"
            f" {order} order"
        )
        if self.query_dtype is not None:
            text += f", query_dtype={self.query_dtype}"
        return text

    def adapted(self) -> Weights:
        """The weights that the inner loop changes, by name: here all that
        require gradients.
        """
        own = self.model.named_parameters()
        return {name: p for name, p in own if p.requires_grad}

    def step_size(self, step: int) -> float | Weights:
        """The step size of inner step 0, 1, ...: here one number for all steps
        and all weights.
        """
        return self.inner_lr

    def support_loss(
        self, weights: Weights, step: int, x: Tensor, y: Tensor, way: int | None
    ) -> Tensor:
        """What inner step 0, 1, ... goes down, summed over the tasks: their
        losses on the support sets.
        """
        weights = weights | self.shared(step, len(x))
        return self.summed(call(self.model, weights, x), y, way)

    def outer_loss(self, part: Episode, way: int | None) -> Tensor:
        """What the outer loop minimises, summed over the tasks: their losses
        on the query sets, after adapting to the support sets.
        """
        fast = self.learn(part.support_x, part.support_y, way)
        return self.query_loss(fast, part.query_x, part.query_y, way)
