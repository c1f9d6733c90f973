# SPDX-License-Identifier: MIT
"""What makes one method of MAML's family another: the mathematics, to override.

Each function sees one pass of tasks: a leading task dimension T, which is 1
where tasks are computed in turn. Labels are columns of the predictions
already; ``way`` is the number of classes, and ``None`` for regression. Taught
in section 3.1 of the book.
"""

from abc import abstractmethod

from torch import Tensor, nn

from metabook.learner.protocol import Learner
from metabook.optimization.inner_loop import Weights
from metabook.tasks.episode import Episode

__all__ = ["Method"]


class Method(Learner):
    """Base of the learners with an inner loop, as far as a relative of `MAML`
    differs from it.

    Examples
    --------
    >>> import metabook as mb
    >>> class BiasesAlone(mb.MAML):  # a relative that adapts only biases
    ...     def adapted(self):
    ...         everything = super().adapted()
    ...         return {n: w for n, w in everything.items() if "bias" in n}
    >>> learner = BiasesAlone(mb.MLP(1, 1), loss_fn=nn.functional.mse_loss)
    >>> sorted(learner.adapted())
    ['1.bias', '3.bias', '5.bias']
    """

    model: nn.Module
    first_order: bool

    @abstractmethod
    def adapted(self) -> Weights:
        """The weights that the inner loop changes, by name."""

    @abstractmethod
    def step_size(self, step: int) -> float | Weights:
        """The step size of inner step 0, 1, ...: a number, or a tensor for
        every weight by its name.
        """

    @abstractmethod
    def support_loss(
        self, weights: Weights, step: int, x: Tensor, y: Tensor, way: int | None
    ) -> Tensor:
        """What inner step 0, 1, ... goes down, summed over the tasks.

        Parameters
        ----------
        weights : dict of name to Tensor, (T, ...)
        step : int
        x : Tensor, (T, S, ...)
        y : Tensor, (T, S) or the shape of the targets
        way : int, optional
        """

    @abstractmethod
    def outer_loss(self, part: Episode, way: int | None) -> Tensor:
        """What the outer loop minimises, summed over the tasks."""

    def add_learned(self) -> None:
        """Give the learner what the outer loop learns beside the model, once
        the learner is made: here nothing.
        """
        return

    def at_step(self, step: int) -> Weights:
        """Weights outside of the inner loop that belong to one of its steps:
        here none.
        """
        return {}

    def first_order_now(self) -> bool:
        """Whether the second derivatives are left out: here always or never."""
        return self.first_order

    def differentiates_twice(self) -> bool:
        """Whether `backward` takes second derivatives of the support loss."""
        return not self.first_order_now()

    def add_gradient(self, part: Episode, way: int | None, tasks: int) -> float:
        """Add this part's share of the outer gradient to ``.grad``, and return
        its share of the loss, of a batch of so many tasks.
        """
        loss = self.outer_loss(part, way) / tasks
        # not autograd.grad: for an operation that is only once differentiable
        # it would return a wrong gradient without a word, where backward raises
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())
