# SPDX-License-Identifier: MIT
"""What every learner with an inner loop does with a batch of tasks.

`MAML` says what a task learns and what the outer loop minimises; this base
checks the batch, numbers the labels, takes the steps, and leaves the ways of
computing many tasks to `metabook.optimization.execution`. Taught in sections
3.1 and 5.1 of the book.
"""

import math
from collections import deque
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metabook.learner.labels import (
    check_batch,
    has_classes,
    label_columns,
    query_targets,
)
from metabook.learner.losses import LossFn, is_cross_entropy
from metabook.learner.precision import refuse_half_precision
from metabook.learner.probes import kind, probing
from metabook.learner.protocol import ClassNames, Predictor, State
from metabook.optimization.checks import (
    frozen_norms,
    refuse_modes,
    refuse_unfit_layers,
)
from metabook.optimization.execution.choice import Execution
from metabook.optimization.execution.side_by_side import (
    call,
    support_statistics,
)
from metabook.optimization.inner_loop import (
    Weights,
    gradient_steps,
    twice_differentiable,
)
from metabook.optimization.method import Method
from metabook.optimization.second_derivatives import check_second_derivatives
from metabook.tasks.episode import Episode

__all__ = ["FastWeights", "InnerLoopLearner"]

SomeLearner = TypeVar("SomeLearner", bound="InnerLoopLearner")


class FastWeights(Predictor):
    """The predictor of a learner with an inner loop.

    Attributes
    ----------
    weights : dict of name to Tensor, (T, ...)
        Where the inner loop of each task arrived, by the names of the model's
        parameters; those that are not adapted are left out.

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.MAML(mb.MLP(1, 1), inner_lr=0.01, loss_fn=F.mse_loss)
    >>> waves = mb.Sinusoids(shot=10).sample(4)
    >>> predictor = learner.adapt(waves.support_x, waves.support_y, steps=5)
    >>> predictor.weights["1.weight"].shape  # 40 hidden units, one input
    torch.Size([4, 40, 1])
    """

    @property
    def weights(self) -> Weights:
        """The fast weights, by name."""
        return self.state


class InnerLoopLearner(Method):
    """Base of `MAML` and its relatives: gradient steps on the support set.

    A subclass says what it adapts, how far a step goes, what a step goes down
    and what the outer loop minimises: see `Method`.

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.MAML(mb.MLP(1, 1), inner_lr=0.01, loss_fn=F.mse_loss)
    >>> waves = mb.Sinusoids(shot=10, query=20).sample(4)
    >>> parts = waves.support_x, waves.support_y, waves.query_x
    >>> learner.forward_each_step(*parts, steps=5).shape
    torch.Size([6, 4, 20, 1])
    """

    predictor_type = FastWeights

    def __init__(
        self,
        model: nn.Module,
        inner_lr: float,
        inner_steps: int,
        *,
        first_order: bool,
        loss_fn: LossFn,
        query_dtype: torch.dtype | None,
        execution: Execution,
    ) -> None:
        super().__init__(loss_fn)
        if inner_steps < 1:
            raise ValueError(
                f"inner_steps is {inner_steps}; without a step MAML is joint"
                " training"
            )
        if not 0 <= inner_lr < math.inf:
            raise ValueError(
                f"inner_lr is {inner_lr}; a step size is a finite number from 0"
            )
        refuse_unfit_layers(model)
        self.frozen_norms = frozen_norms(model)
        if not any(p.requires_grad for p in model.parameters()):
            raise ValueError(
                "no parameter of the model requires a gradient: there is"
                " nothing to adapt"
            )
        self.model, self.inner_lr, self.inner_steps = (
            model,
            inner_lr,
            inner_steps,
        )
        self.first_order, self.query_dtype = first_order, query_dtype
        self.execution = execution
        self.add_learned()
        # kinds of tasks on which the second derivatives were found right
        self._checked: set[object] = set()

    def seems_transductive(self) -> bool:
        """What its layers say of it, as long as it was not tried: `SupportNorm`
        does not look at the queries.
        """
        return any(
            isinstance(m, _BatchNorm) and name not in self.frozen_norms
            for name, m in self.model.named_modules()
        )

    def train(self: SomeLearner, mode: bool = True) -> SomeLearner:
        """Set the mode, as of any module; statistics that were frozen when the
        learner was made stay so.
        """
        super().train(mode)
        for name in self.frozen_norms:
            self.model.get_submodule(name).eval()
        return self

    def forward(
        self,
        support_x: Tensor,
        support_y: Tensor,
        query_x: Tensor,
        steps: int | None = None,
    ) -> Tensor:
        """Adapt to each task and predict its queries, (T, Q, way) or the shape
        of the targets.

        ``steps`` overrides ``inner_steps``; the other arguments are those of
        `Learner`.
        """
        check_batch(self, support_x, support_y, query_x)
        targets, way = _columns(support_y)
        self._check_graph(support_x, targets, steps)
        parts = self.execution.parts(self.model, support_x, targets, query_x)
        return torch.cat(
            [
                self.predictions(self.learn(x, y, way, steps), q)
                for x, y, q in parts
            ]
        )

    def forward_each_step(
        self,
        support_x: Tensor,
        support_y: Tensor,
        query_x: Tensor,
        steps: int | None = None,
    ) -> Tensor:
        """Predictions after 0, 1, ..., ``steps`` inner steps, (steps + 1, T, Q,
        way) or the shape of the targets.
        """
        check_batch(self, support_x, support_y, query_x)
        self.show(support_x, support_y, query_x)
        targets, way = _columns(support_y)
        self._check_graph(support_x, targets, steps)
        steps_of_parts = []
        parts = self.execution.parts(self.model, support_x, targets, query_x)
        for x, y, q in parts:
            path = self.learn_each_step(x, y, way, steps)
            predictions = [self.predictions(fast, q) for fast in path]
            steps_of_parts.append(torch.stack(predictions))
        return torch.cat(steps_of_parts, dim=1)

    def adapt(
        self,
        support_x: Tensor,
        support_y: Tensor,
        *,
        steps: int | None = None,
        class_names: ClassNames | None = None,
    ) -> "FastWeights":
        """Adapt to each task; the model is left as it is.

        Parameters
        ----------
        support_x, support_y, class_names
            As in `Learner`.
        steps : int, optional
            In place of ``inner_steps``.

        Returns
        -------
        FastWeights
            A predictor whose ``weights`` are those that each task arrived at,
            {name: (T, ...)}.
        """
        check_batch(self, support_x, support_y, support_x)
        self.show(support_x, support_y, support_x)
        state = self.remember(support_x, support_y, steps)
        made = self.predictor(state, support_x, support_y, class_names)
        return cast(FastWeights, made)

    def remember(
        self, support_x: Tensor, support_y: Tensor, steps: int | None = None
    ) -> State:
        """The fast weights of each task, {name: (T, ...)}."""
        targets, way = _columns(support_y)
        self._check_graph(support_x, targets, steps)
        parts = [
            self.learn(x, y, way, steps)
            for x, y in self.execution.parts(self.model, support_x, targets)
        ]
        return {
            name: torch.cat([fast[name] for fast in parts]) for name in parts[0]
        }

    def answer(self, state: State, query_x: Tensor) -> Tensor:
        """Predictions for queries (T, Q, ...) with the fast weights of their
        tasks.
        """
        parts = self.execution.parts(self.model, query_x, *state.values())
        return torch.cat(
            [
                self.predictions(dict(zip(state, w, strict=True)), q)
                for q, *w in parts
            ]
        )

    def loss(self, episode: Episode) -> Tensor:
        """The mean over the tasks of the outer loss; a scalar.

        Each task draws the random numbers that it draws in `backward`.
        """
        episode, way = self.in_columns(episode)
        parts = self.execution.each(
            self.model, episode, lambda part: self.outer_loss(part, way)
        )
        return torch.stack(parts).sum() / len(episode)

    def backward(self, episode: Episode) -> float:
        """Add the gradient of the mean outer loss to ``.grad`` and return the
        loss.

        One task, or at most 32 side by side, at a time, so that memory does not
        grow with T; summed in the order of the tasks, whatever the number of
        threads. What task i of the batch draws, as for dropout, depends on i
        and on the state of torch's generator at the start, which then moves on
        by one number.

        Raises
        ------
        RuntimeError
            If the second derivatives of the model are wrong, which is tried
            once for each kind of tasks (`metabook.learner.probes`).
        """
        episode, way = self.in_columns(episode)
        with torch.enable_grad(), twice_differentiable(self.first_order_now()):
            return self.execution.backward(self, episode, way)

    # --- what the mathematics is written with ---

    def in_columns(self, episode: Episode) -> tuple[Episode, int | None]:
        """The episode, checked, with columns in place of labels; and the number
        of classes, none for regression.
        """
        parts = episode.support_x, episode.support_y, episode.query_x
        check_batch(self, *parts)
        self.show(*parts)
        columns, way = _columns(episode.support_y)
        if self.differentiates_twice():
            self._check_second_derivatives(episode.support_x, columns)
        # a label that the support lacks raises
        targets = query_targets(episode.support_y, episode.query_y)
        return Episode(
            episode.support_x, columns, episode.query_x, targets
        ), way

    def learn(
        self, x: Tensor, y: Tensor, way: int | None, steps: int | None = None
    ) -> Weights:
        """All that tasks learn from their support sets: their fast weights, and
        the statistics of the support set where the model uses them.
        """
        (weights,) = self._path(x, y, way, steps, every=False)
        return weights

    def learn_each_step(
        self, x: Tensor, y: Tensor, way: int | None, steps: int | None = None
    ) -> list[Weights]:
        """What `learn` returns after 0, 1, ... steps."""
        return self._path(x, y, way, steps, every=True)

    def predictions(self, fast: Weights, x: Tensor) -> Tensor:
        """The model's predictions (T, N, ...) with the weights of each task."""
        with twice_differentiable(self.first_order_now()):
            return call(self.model, fast, x)

    def query_loss(
        self, fast: Weights, x: Tensor, y: Tensor, way: int | None
    ) -> Tensor:
        """The losses with these weights, summed over the tasks."""
        if self.query_dtype is None:
            return self.summed(self.predictions(fast, x), y, way)
        with torch.autocast(x.device.type, self.query_dtype):
            predictions = self.predictions(fast, x)
        # the loss is taken in full precision
        full = torch.promote_types(predictions.dtype, torch.float32)
        return self.summed(predictions.to(full), y, way)

    def summed(
        self, predictions: Tensor, targets: Tensor, way: int | None
    ) -> Tensor:
        """The sum of the tasks' losses, from (T, N, ...); each is a mean over
        N, unless ``loss_fn`` says otherwise.
        """
        yes_or_no = way == 2 and predictions.shape[-1] == 1
        if yes_or_no and is_cross_entropy(self.loss_fn):
            yes_or_no = False  # cross-entropy of one column is always zero
        if way not in (None, predictions.shape[-1]) and not yes_or_no:
            raise ValueError(
                f"the model has {predictions.shape[-1]} outputs but the tasks"
                f" have {way} classes: the head is as wide as a task; build the"
                f" model with {way} outputs"
            )
        if self.loss_fn in (F.mse_loss, F.cross_entropy):
            # one call for all tasks: the mean of means of equal size
            return len(predictions) * self.compare(
                predictions.flatten(0, 1), targets.flatten(0, 1)
            )
        pairs = zip(predictions, targets, strict=True)
        return torch.stack([self.compare(p, t) for p, t in pairs]).sum()

    def shared(self, step: int, tasks: int) -> Weights:
        """The weights of `at_step`, once for each task."""
        own = self.at_step(step).items()
        return {name: w.expand(tasks, *w.shape) for name, w in own}

    def finish(self, weights: Weights, steps: int, x: Tensor) -> Weights:
        """Fast weights after so many steps, with what else the queries are
        predicted with: they are normalised as in the last step.
        """
        fast = weights | self.shared(max(steps - 1, 0), len(x))
        return fast | support_statistics(self.model, fast, x)

    def _path(
        self,
        x: Tensor,
        y: Tensor,
        way: int | None,
        steps: int | None,
        every: bool,
    ) -> list[Weights]:
        """What tasks have learned after the last step, or after each."""
        steps = self.inner_steps if steps is None else steps
        # the caller's gradients are on: the result stays connected to theta
        connected = torch.is_grad_enabled()
        second_order = connected and not self.first_order_now()
        refuse_modes(steps)
        if connected and steps:
            refuse_half_precision(self.adapted())
        theta = {
            name: p.expand(len(x), *p.shape)
            for name, p in self.adapted().items()
        }
        if not connected:
            theta = {n: p.detach().requires_grad_() for n, p in theta.items()}

        def loss(weights: Weights, step: int) -> Tensor:
            return self.support_loss(weights, step, x, y, way)

        with torch.enable_grad(), twice_differentiable(self.first_order_now()):
            walk = gradient_steps(
                theta, loss, self.step_size, steps, second_order, connected
            )
            path = list(deque(walk, maxlen=None if every else 1))
        if not connected:
            path = [{n: w.detach() for n, w in ws.items()} for ws in path]
        first = steps + 1 - len(path)
        return [self.finish(w, first + i, x) for i, w in enumerate(path)]

    def _check_graph(self, x: Tensor, y: Tensor, steps: int | None) -> None:
        """The caller's gradients are on, and may go through the inner loop."""
        connected = torch.is_grad_enabled() and steps != 0
        if connected and not self.first_order_now():
            self._check_second_derivatives(x, y)

    def _check_second_derivatives(self, x: Tensor, y: Tensor) -> None:
        tried = self.training, *kind(self, x)
        if tried not in self._checked and probing():
            check_second_derivatives(self, x, y)
            self._checked.add(tried)


def _columns(support_y: Tensor) -> tuple[Tensor, int | None]:
    """Columns in place of labels, and how many classes they are; floating
    targets stay, without classes.
    """
    if not has_classes(support_y):
        return support_y, None
    classes, columns = label_columns(support_y)
    return columns, classes.shape[1]
