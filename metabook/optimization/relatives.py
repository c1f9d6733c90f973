# SPDX-License-Identifier: MIT
"""Relatives of MAML that differ from it by one thought each: what is adapted,
how far a step goes, what training asks.

Taught in section 3.1 of the book.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabook.learner.losses import LossFn
from metabook.optimization.inner_loop import Weights
from metabook.optimization.maml import MAML
from metabook.tasks.episode import Episode

__all__ = ["ANIL", "JointTraining", "MetaSGD"]


class ANIL(MAML):
    """Almost no inner loop: MAML that adapts the last layer and nothing else.

    The body is the same for every task; the outer loop learns it, the inner
    loop leaves it alone.

    Parameters
    ----------
    model : nn.Module
    inner_lr, inner_steps : float, int
    head : str, optional
        Name of the submodule to adapt, as in ``model.get_submodule``; the last
        one that has parameters of its own, unless given.
    first_order, loss_fn, vectorized, threads, query_dtype, compiled
        As in `MAML`.

    Raises
    ------
    ValueError
        If the model has no such submodule, or it has no parameters.

    References
    ----------
    Raghu, Raghu, Bengio & Vinyals, *Rapid Learning or Feature Reuse?*, 2020,
    https://arxiv.org/abs/1909.09157

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.ANIL(mb.Conv4(out=5, norm="batch_stats"), inner_lr=0.1)
    >>> episode = mb.FewShotTasks(
    ...     mb.glyphs(classes=10), way=5, shot=1, query=2
    ... ).sample(1)
    >>> predictor = learner.adapt(episode.support_x, episode.support_y)
    >>> sorted(predictor.weights)
    ['head.bias', 'head.weight']
    """

    def __init__(
        self,
        model: nn.Module,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        *,
        head: str | None = None,
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
            vectorized=vectorized,
            threads=threads,
            query_dtype=query_dtype,
            compiled=compiled,
        )
        owners = [
            name
            for name, module in model.named_modules()
            if any(True for _ in module.parameters(recurse=False))
        ]
        self.head = owners[-1] if head is None else head
        if not self.adapted():
            raise ValueError(
                f"the model has nothing to adapt in {self.head!r}; its layers"
                f" are {', '.join(owners)}"
            )

    def extra_repr(self) -> str:
        """The settings, for printing."""
        return f"{super().extra_repr()}, head={self.head!r}"

    def adapted(self) -> Weights:
        """The weights of the head."""
        prefix = (
            f"{self.head}." if self.head else ""
        )  # a model that is one layer has no name for it
        return {
            name: w
            for name, w in super().adapted().items()
            if name.startswith(prefix)
        }


class MetaSGD(MAML):
    """MAML that learns, beside where to start, how far and in which direction
    every single weight steps.

        theta' = theta - a * grad L_support(theta),  with a of the shape of
        theta, learned in the outer loop

    An entry of a may become negative: then its weight steps against the slope.
    With all of them frozen at one number it is MAML.

    Parameters
    ----------
    model : nn.Module
    inner_lr : float
        Where every step size starts.
    inner_steps : int
    first_order, loss_fn, vectorized, threads, query_dtype, compiled
        As in `MAML`.

    References
    ----------
    Li, Zhou, Chen & Li, *Meta-SGD*, 2017, https://arxiv.org/abs/1707.09835

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.MetaSGD(
    ...     mb.MLP(1, 1), inner_lr=0.01, loss_fn=torch.nn.functional.mse_loss
    ... )
    >>> sum(p.numel() for p in learner.parameters()) == 2 * 1761
    True
    """

    def add_learned(self) -> None:
        """A step size for every weight, which the outer loop learns."""
        self.step_sizes = nn.ParameterList(
            [torch.full_like(w, self.inner_lr) for w in self.adapted().values()]
        )

    def step_size(self, step: int) -> Weights:
        """The learned step size of every weight, by name; the same in every
        step.
        """
        return dict(zip(self.adapted(), self.step_sizes, strict=True))


class JointTraining(MAML):
    """MAML without "after adaptation": train one set of weights on the examples
    of all tasks, adapt at test only.

        min over theta of  mean_i L_i(theta)

    The baseline that MAML has to beat, also called pre-training and
    fine-tuning. Takes the arguments of `MAML`; the inner loop is used at test
    alone.

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.JointTraining(
    ...     mb.MLP(1, 1), inner_lr=0.01, loss_fn=torch.nn.functional.mse_loss
    ... )
    >>> history = mb.train(
    ...     learner, mb.Sinusoids(), iterations=3, tasks_per_batch=5
    ... )
    """

    def differentiates_twice(self) -> bool:
        """No: training takes no inner step."""
        return False

    def outer_loss(self, part: Episode, way: int | None) -> Tensor:
        """The losses before adapting, on all examples of the tasks."""
        x = torch.cat([part.support_x, part.query_x], dim=1)
        y = torch.cat([part.support_y, part.query_y], dim=1)
        return self.query_loss(self.learn(x, y, way, steps=0), x, y, way)
