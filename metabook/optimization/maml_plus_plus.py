# SPDX-License-Identifier: MIT
"""MAML++: MAML with changes that make several inner steps train well, each a
switch of its own.

Antoniou, Edwards & Storkey, *How to train your MAML*, 2019,
https://arxiv.org/abs/1810.09502. The fifth of them, the cosine schedule of the
outer loop, is ``metabook.train(..., schedule="cosine")``. Taught in section 3.1
of the book.
"""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from metabook.learner.losses import LossFn
from metabook.models.norms import SupportNorm
from metabook.optimization.inner_loop import Weights
from metabook.optimization.maml import MAML
from metabook.tasks.episode import Episode

__all__ = ["MAMLPlusPlus"]

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, SupportNorm)


class MAMLPlusPlus(MAML):
    """MAML whose inner steps differ from each other, and whose training begins
    gently.

    With ``per_step_lr=False, per_step_norm=False`` and the two zeros it is
    MAML.

    Parameters
    ----------
    model : nn.Module
    inner_lr : float
        Where every learned step size starts.
    inner_steps : int
    per_step_lr : bool
        Learn one step size for every weight tensor and inner step; a test with
        more steps repeats the last ones.
    per_step_norm : bool
        Give every inner step a scale and a shift of its own in all
        normalisation layers: what the layer has, plus a learned difference that
        starts at zero. The inner loop leaves them alone. The queries are
        normalised as in the last step.
    multi_step_until : int
        While the outer loop is younger than this many iterations, its loss is a
        weighted mean of the query losses after every step, equal at first, the
        last one alone in the end. (The authors' weights stop at a small
        positive number; these reach zero.) 0: the last step alone from the
        start.
    first_order_until : int
        Leave out second derivatives while the outer loop is younger than this
        many iterations.
    first_order, loss_fn, vectorized, threads, query_dtype, compiled
        As in `MAML`.

    References
    ----------
    Antoniou, Edwards & Storkey, 2019, https://arxiv.org/abs/1810.09502

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.MAMLPlusPlus(
    ...     mb.Conv4(out=5, norm="batch_stats"),
    ...     inner_steps=5,
    ...     multi_step_until=1000,
    ... )
    >>> [round(w, 2) for w in learner.step_weights()]
    [0.2, 0.2, 0.2, 0.2, 0.2]
    """

    iteration: Tensor

    def __init__(
        self,
        model: nn.Module,
        inner_lr: float = 0.1,
        inner_steps: int = 5,
        *,
        per_step_lr: bool = True,
        per_step_norm: bool = True,
        multi_step_until: int = 0,
        first_order_until: int = 0,
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
        if compiled and (multi_step_until or first_order_until):
            raise ValueError(
                "what changes from iteration to iteration cannot be compiled"
                " once: use compiled=False"
            )
        self.per_step_lr, self.per_step_norm = per_step_lr, per_step_norm
        self.multi_step_until, self.first_order_until = (
            multi_step_until,
            first_order_until,
        )
        self.register_buffer("iteration", torch.tensor(0))
        norms = {
            f"{name}.".lstrip("."): m
            for name, m in model.named_modules()
            if isinstance(m, NORMS)
        }
        own = {
            name: p for name, p in model.named_parameters() if p.requires_grad
        }
        parts = [
            name + part
            for name, m in norms.items()
            for part, _ in m.named_parameters()
        ]
        self.norm_names = [
            name for name in parts if per_step_norm and name in own
        ]
        self.norm_steps = nn.ParameterList(
            [
                own[name].new_zeros(inner_steps, *own[name].shape)
                for name in self.norm_names
            ]
        )
        self.step_sizes = nn.ParameterList(
            [
                w.new_full((inner_steps,), inner_lr)
                for w in self.adapted().values()
                if per_step_lr
            ]
        )

    def extra_repr(self) -> str:
        """The settings, for printing."""
        return (
            f"{super().extra_repr()}, per_step_lr={self.per_step_lr},"
            f" per_step_norm={self.per_step_norm},"
            f" multi_step_until={self.multi_step_until},"
            f" first_order_until={self.first_order_until}"
        )

    def adapted(self) -> Weights:
        """The weights that the inner loop changes: not those of layers that
        have their own for every step.
        """
        return {
            name: w
            for name, w in super().adapted().items()
            if name not in self.norm_names
        }

    def step_size(self, step: int) -> float | Weights:
        """The step size of every weight tensor in this step."""
        if not len(self.step_sizes):
            return self.inner_lr
        sizes = zip(self.adapted(), self.step_sizes, strict=True)
        return {name: a[min(step, len(a) - 1)] for name, a in sizes}

    def at_step(self, step: int) -> Weights:
        """Scale and shift of the normalisation layers in this step."""
        own = dict(self.model.named_parameters())
        own_and_more = zip(self.norm_names, self.norm_steps, strict=True)
        return {
            name: own[name] + more[min(step, len(more) - 1)]
            for name, more in own_and_more
        }

    def step_weights(self) -> list[float]:
        """How much the query loss after step 1, 2, ... counts in this
        iteration; they sum to one.
        """
        k = self.inner_steps
        early = (
            max(0.0, 1 - int(self.iteration) / self.multi_step_until) / k
            if self.multi_step_until
            else 0.0
        )
        return [early] * (k - 1) + [1 - early * (k - 1)]

    def backward(self, episode: Episode) -> float:
        """As in `MAML`; one iteration of the outer loop is then over, so call
        it once for each.
        """
        loss = super().backward(episode)
        self.iteration += 1
        return loss

    def backward_each(self, episodes: Iterable[Episode]) -> float:
        """As in `MAML`; all of these tasks belong to one iteration."""
        now = int(self.iteration)

        def held() -> Iterator[Episode]:
            for episode in episodes:
                self.iteration.fill_(now)
                yield episode

        return super().backward_each(held())

    def first_order_now(self) -> bool:
        """Whether this iteration leaves the second derivatives out."""
        return self.first_order or (
            self.first_order_until > 0
            and int(self.iteration) < self.first_order_until
        )

    def outer_loss(self, part: Episode, way: int | None) -> Tensor:
        """The losses on the query sets, a weighted mean over the inner steps,
        summed over the tasks.
        """
        weights = self.step_weights()
        if weights[-1] == 1:
            return super().outer_loss(part, way)
        path = self.learn_each_step(part.support_x, part.support_y, way)
        losses = [
            w * self.query_loss(fast, part.query_x, part.query_y, way)
            for w, fast in zip(weights, path[1:], strict=True)
        ]
        return torch.stack(losses).sum()
