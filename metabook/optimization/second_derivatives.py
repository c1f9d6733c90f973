# SPDX-License-Identifier: MIT
"""Whether autograd's second derivatives of a model are right, by difference
quotients of its first ones.

With g the gradient of a task's loss, J its derivative, and any u and v,

    (J' u) . v  =  u . (g(theta + h v) - g(theta - h v)) / 2h  +  O(h^2)

The left side is what an outer gradient is made of. With torch's weight norm
(2.13) the outer gradient is off by up to a half, without a word.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from metabook.data.global_random import random_numbers_of
from metabook.learner.probes import twin
from metabook.optimization.execution.side_by_side import call
from metabook.optimization.inner_loop import Weights, twice_differentiable
from metabook.optimization.method import Method

__all__ = ["check_second_derivatives"]

ROWS = 4  # examples of one task
STEPS = (1e-6, 1e-8)  # the second where the first meets a kink of a ReLU
TOLERANCE = 1e-4  # in double precision, what is right agrees to six digits
INTENDED = 1e-2  # what is further off in the first derivative is meant to be


def check_second_derivatives(learner: Method, x: Tensor, y: Tensor) -> None:
    """Refuse a model whose second derivatives are wrong.

    What is tried is a copy in double precision, on a few examples of one task.
    Where the quotients of two step sizes disagree, or already the first
    derivative is not that of the loss, as with a straight-through estimator,
    nothing is said.

    Parameters
    ----------
    learner : Method
    x : Tensor, (T, S, ...)
    y : Tensor, (T, S) or the shape of the targets
        Columns in place of labels.

    Raises
    ------
    RuntimeError
        If they are; the message names the layers.
    """
    try:
        with torch.enable_grad(), twice_differentiable():
            loss = _Loss(learner, x[:1, :ROWS], y[:1, :ROWS])
            wrong = (
                loss.second_is_wrong(loss.theta) and not loss.first_is_wrong()
            )
            layers = loss.layers_to_blame() if wrong else []
    except Exception:  # what fails on the copy says nothing of the model
        return
    if wrong:
        raise RuntimeError(
            f"the second derivative of {' and '.join(layers) or 'the model'} is"
            " wrong: autograd disagrees with a difference quotient, and so"
            " would the outer gradient. Write the layer out in plain operations"
            " (weight norm: g * v / v.norm()), or leave second derivatives out"
            " with first_order=True. The environment variable METABOOK_PROBE=0"
            " switches this check off"
        )


class _Loss:
    """The loss of one task, as a function of the parameters of a copy."""

    def __init__(self, learner: Method, x: Tensor, y: Tensor) -> None:
        self.learner = twin(learner).double()
        self.x, self.y = _double(x), _double(y)
        own = self.learner.model.named_parameters()
        self.theta: Weights = {n: p for n, p in own if p.requires_grad}
        self.start = {n: p.detach().clone() for n, p in self.theta.items()}
        noise = torch.Generator().manual_seed(1)
        self.u, self.v = (
            {
                name: torch.randn(p.shape, generator=noise).to(p)
                * (p.square().mean().sqrt() + 0.01)
                for name, p in self.start.items()
            }
            for _ in range(2)
        )

    def second_is_wrong(self, names: Iterable[str]) -> bool:
        """Whether the two sides differ, along the parameters of these names
        and no others.
        """
        v = {name: self.v[name] for name in names}
        u = {name: self.u[name] for name in v.keys() & self.learner.adapted()}

        def slope(h: float) -> Tensor:  # u . g(theta + h v)
            self._move(h, v)
            return _dot(u, self._gradient(graph=h == 0))

        self.learner.zero_grad()
        at_start = slope(0.0)
        if at_start.requires_grad:  # else it is said to be constant
            # autograd.grad would pass over what is differentiable once
            at_start.backward()  # type: ignore[no-untyped-call]
        second = {
            n: p.grad for n, p in self.theta.items() if p.grad is not None
        }
        return _differ(slope, v, second)

    def first_is_wrong(self) -> bool:
        """Whether the gradient is not that of the loss, by intention."""

        def loss(h: float) -> Tensor:
            self._move(h, self.v)
            return self._loss()

        self._move(0.0, self.v)
        return _differ(loss, self.v, self._gradient(), INTENDED)

    def layers_to_blame(self) -> list[str]:
        """Those whose own parameters show the difference."""
        found = []
        for name, layer in self.learner.model.named_modules():
            inside = [f"{name}.{n}".lstrip(".") for n in layer._parameters]
            own = [n for n in inside if n in self.theta]
            if own and self.second_is_wrong(own):
                place = name or "the model"
                found.append(f"{place} ({type(layer).__name__})")
        return found

    def _move(self, h: float, v: Weights) -> None:
        """Set the parameters to theta + h v."""
        with torch.no_grad():
            for name, direction in v.items():
                self.theta[name].copy_(self.start[name] + h * direction)

    def _loss(self) -> Tensor:
        with random_numbers_of(0, self.x.device):  # the same dropout each time
            predictions = call(self.learner.model, {}, self.x)
        return self.learner.compare(predictions[0], self.y[0])

    def _gradient(self, graph: bool = False) -> Weights:
        """By name; parameters that the loss does not reach are left out."""
        # of all at once: with channels last, torch's GroupNorm crashes where
        # the gradient of its own parameters alone is asked for (2.13)
        grads = torch.autograd.grad(
            self._loss(),
            [*self.theta.values()],
            create_graph=graph,
            allow_unused=True,
        )
        pairs = zip(self.theta, grads, strict=True)
        return {name: g for name, g in pairs if g is not None}


def _differ(
    f: Callable[[float], Tensor],
    v: Weights,
    gradient: Weights,
    tolerance: float = TOLERANCE,
) -> bool:
    """Whether gradient . v is not the derivative of f at 0, although the
    quotients of two step sizes agree with each other.
    """
    with torch.no_grad():
        exact = float(_dot(v, gradient))
        # what gradient . v would be with other signs of v
        size = float(_dot(_times(v, v), _times(gradient, gradient))) ** 0.5
    for step in STEPS:
        one, other = (
            float((f(h) - f(-h)).detach()) / (2 * h) for h in (step, step / 2)
        )
        size = max(size, abs(other))
        if abs(one - other) < tolerance / 10 * size:
            return bool(abs(exact - other) > tolerance * size)
    return False


def _dot(a: Weights, b: Weights) -> Tensor:
    """The inner product, over the names that both have."""
    products = [product.sum() for product in _times(a, b).values()]
    return torch.stack(products).sum() if products else torch.zeros(())


def _times(a: Weights, b: Weights) -> Weights:
    return {name: a[name] * b[name] for name in a if name in b}


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x
