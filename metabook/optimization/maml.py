# SPDX-License-Identifier: MIT
"""MAML: learn the weights from which a few gradient steps learn a new task.

    theta_i = theta - lr * grad L_support,i(theta)          inner loop, once or several times
    min over theta of  mean_i L_query,i(theta_i)            outer loop

Finn, Abbeel & Levine, *Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks*, 2017,
https://arxiv.org/abs/1703.03400. Taught in sections 3.1, 4.1 and 5.1 of the book.
"""

import copy
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabook.learner import Learner, LossFn, check_batch, label_columns
from metabook.optimization.inner_loop import Weights, call, gradient_steps, twice_differentiable
from metabook.tasks.episode import Episode

__all__ = ["MAML"]


class MAML(Learner):
    """Model-agnostic meta-learning, of second order unless said otherwise.

    Parameters
    ----------
    model : nn.Module
        Any network; for classes, its outputs are as wide as a task has classes. All of its parameters that
        require gradients are adapted.
    inner_lr : float
        Step size of the inner loop.
    inner_steps : int
        Steps of the inner loop, in training and, unless ``steps=`` says otherwise, at test.
    first_order : bool
        Leave out the derivative of the inner gradient (FOMAML): cheaper, and another gradient.
    loss_fn : callable
        Cross-entropy for classes; ``torch.nn.functional.mse_loss`` for regression.

    threads : int
        Tasks that `backward` works on at once, one core each.

    Raises
    ------
    ValueError
        If the model has normalisation with running statistics (tasks would change each other through them),
        nothing to adapt, or dropout together with several threads (they would share one random state).

    References
    ----------
    Finn, Abbeel & Levine, 2017, https://arxiv.org/abs/1703.03400

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.MAML(mb.MLP(1, 1), inner_lr=0.01, loss_fn=F.mse_loss)
    >>> episode = mb.Sinusoids(shot=10, query=20).sample(4)
    >>> learner(episode.support_x, episode.support_y, episode.query_x, steps=5).shape
    torch.Size([4, 20, 1])
    """

    def __init__(
        self,
        model: nn.Module,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        first_order: bool = False,
        loss_fn: LossFn = F.cross_entropy,
        threads: int = 1,
    ) -> None:
        super().__init__(loss_fn)
        if inner_steps < 1:
            raise ValueError(f"inner_steps is {inner_steps}; without a step MAML is joint training")
        _refuse_running_statistics(model)
        if not any(p.requires_grad for p in model.parameters()):
            raise ValueError("no parameter of the model requires a gradient: there is nothing to adapt")
        if threads > 1 and any(isinstance(m, nn.modules.dropout._DropoutNd) for m in model.modules()):
            raise ValueError("the model has dropout, whose random state threads would share: use threads=1")
        self.model, self.inner_lr, self.inner_steps, self.first_order = model, inner_lr, inner_steps, first_order
        self.threads = threads

    def extra_repr(self) -> str:
        """The settings that make another method or another run."""
        order = "first" if self.first_order else "second"
        return f"inner_lr={self.inner_lr}, inner_steps={self.inner_steps}, {order} order"

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, steps: int | None = None) -> Tensor:
        """Adapt to each task and predict its queries, (T, Q, way) or the shape of the targets.

        ``steps`` overrides ``inner_steps``; the other arguments are those of `Learner`.
        """
        check_batch(self, support_x, support_y, query_x)
        targets = _targets(support_y)
        return torch.stack(
            [self._call(self._adapt(x, y, steps), q) for x, y, q in zip(support_x, targets, query_x, strict=True)]
        )

    def adapt(self, support_x: Tensor, support_y: Tensor, steps: int | None = None) -> Weights:
        """The fast weights of each task, {name: (T, ...)}; the model is left as it is."""
        check_batch(self, support_x, support_y, support_x)
        tasks = [self._adapt(x, y, steps) for x, y in zip(support_x, _targets(support_y), strict=True)]
        return {name: torch.stack([fast[name] for fast in tasks]) for name in tasks[0]}

    def predict_with(self, fast: Weights, query_x: Tensor) -> Tensor:
        """Predict queries (T, Q, ...) with the fast weights of their tasks, as `adapt` returns them."""
        if any(len(w) != len(query_x) for w in fast.values()):
            raise ValueError(f"queries of {len(query_x)} tasks, but fast weights of {len(next(iter(fast.values())))}")
        return torch.stack([self._call({name: w[t] for name, w in fast.items()}, q) for t, q in enumerate(query_x)])

    def backward(self, episode: Episode) -> float:
        """Add the gradient of the mean query loss to ``.grad`` and return the loss.

        Task by task, so that memory does not grow with T, and summed in the order of the tasks, whatever the
        number of threads.
        """
        local = threading.local()

        def gradient(task: Episode) -> tuple[float, list[Tensor | None]]:
            if not hasattr(local, "learner"):  # functional_call borrows the module: each thread needs its own
                local.learner = copy.deepcopy(self)
            local.learner.zero_grad()
            with torch.enable_grad():
                loss = local.learner.loss(task) / len(episode)
                # not autograd.grad: for an operation that is only once differentiable it would return a wrong
                # gradient without a word, where backward raises
                loss.backward()
            return float(loss.detach()), [p.grad for p in local.learner.parameters()]

        total = 0.0
        with twice_differentiable(self.first_order), _workers(self.threads) as run:
            for loss, grads in run(gradient, episode.tasks()):
                total += loss
                for p, g in zip(self.parameters(), grads, strict=True):
                    if g is not None:
                        p.grad = g if p.grad is None else p.grad.add_(g)
        return total

    def adapted(self) -> Weights:
        """The weights that the inner loop changes, by name: here all that require gradients."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def step_sizes(self) -> float | Weights:
        """The step size of the inner loop: here one number for all weights."""
        return self.inner_lr

    def _adapt(self, x: Tensor, y: Tensor, steps: int | None) -> Weights:
        """The fast weights of one task, from support examples (S, ...) and targets: columns, or floats."""
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "the inner loop takes gradients, which torch.inference_mode() forbids: use torch.no_grad(), under "
                "which no graph is kept either"
            )
        if torch.is_autocast_enabled(x.device.type) and not self.first_order:
            raise RuntimeError(
                "under autocast the second derivatives of the inner loop would be computed in half precision, which "
                "ruins them: leave autocast, or use first_order=True"
            )
        steps = self.inner_steps if steps is None else steps
        if steps < 0:
            raise ValueError(f"steps is {steps}; it cannot be negative")
        keep = torch.is_grad_enabled()  # the caller's gradients are on: the result stays connected to theta
        theta = self.adapted()
        if not keep:
            theta = {name: p.detach().requires_grad_() for name, p in theta.items()}
        way = None if y.is_floating_point() else int(y.max()) + 1

        def inner_loss(predictions: Tensor, targets: Tensor) -> Tensor:
            if way is not None and predictions.shape[-1] != way:
                raise ValueError(
                    f"the model has {predictions.shape[-1]} outputs but the tasks have {way} classes: the head is as "
                    f"wide as a task; build the model with {way} outputs"
                )
            return self.compare(predictions, targets)

        with torch.enable_grad(), twice_differentiable(self.first_order):
            fast = gradient_steps(
                self.model,
                theta,
                x,
                y,
                loss_fn=inner_loss,
                lr=self.step_sizes(),
                steps=steps,
                graph=keep and not self.first_order,
            )
        return fast if keep else {name: w.detach() for name, w in fast.items()}

    def _call(self, weights: Weights, x: Tensor) -> Tensor:
        with twice_differentiable(self.first_order):
            return call(self.model, weights, x)


@contextmanager
def _workers(threads: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """A ``map`` over tasks: the built-in one, or one that keeps several threads busy with one core each."""
    if threads == 1:
        yield map
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # else every thread would ask for all cores
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)  # after an error the rest need not be computed
        torch.set_num_threads(before)


def _targets(support_y: Tensor) -> Tensor:
    return support_y if support_y.is_floating_point() else label_columns(support_y)[1]


def _refuse_running_statistics(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if getattr(module, "running_mean", None) is not None:
            raise ValueError(
                f"{name or 'the model'} is a {type(module).__name__} with running statistics, which every inner step "
                "of every task would change. Build it with track_running_stats=False (Conv4: norm='batch_stats', and "
                "the learner is transductive), or use group norm (Conv4: norm='group')"
            )
