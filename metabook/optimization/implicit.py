# SPDX-License-Identifier: MIT
"""Implicit MAML: the outer gradient from where the inner loop ends, without the
path that led there.

    phi_i = argmin over phi of  L_support,i(phi) + lam / 2 |phi - theta|^2
    d phi_i / d theta = (I + H / lam)^-1,  H the Hessian of L_support,i at phi_i

At the minimum the gradient of the inner objective is zero; differentiating that
equation gives the second line. Rajeswaran, Finn, Kakade & Levine,
*Meta-Learning with Implicit Gradients*, 2019, https://arxiv.org/abs/1909.04630.
Taught in section 3.1 of the book.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from metabook.optimization.inner_loop import (
    Weights,
    add_to_grad,
    twice_differentiable,
)
from metabook.optimization.maml import MAML
from metabook.tasks.episode import Episode

__all__ = ["ImplicitMAML"]


class ImplicitMAML(MAML):
    """MAML that pulls the fast weights towards theta, and differentiates the
    minimum instead of the steps.

    Memory and time of `backward` do not depend on the number of inner steps,
    except for taking them. The gradient is as good as the inner loop is
    converged, and as conjugate gradients are.

    Parameters
    ----------
    model : nn.Module
    inner_lr : float
    inner_steps : int
        Enough to come near the minimum.
    lam : float
        Strength of the pull. Small: theta hardly matters. Large: the fast
        weights hardly leave it.
    cg_steps : int
        Steps of conjugate gradients, each one Hessian-vector product.
    **options
        Those of `MAML`.

    References
    ----------
    Rajeswaran, Finn, Kakade & Levine, 2019, https://arxiv.org/abs/1909.04630

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.ImplicitMAML(
    ...     mb.MLP(1, 1),
    ...     inner_lr=0.02,
    ...     lam=2.0,
    ...     loss_fn=torch.nn.functional.mse_loss,
    ... )
    >>> history = mb.train(
    ...     learner, mb.Sinusoids(), iterations=2, tasks_per_batch=4
    ... )
    """

    def __init__(
        self,
        model: torch.nn.Module,
        inner_lr: float = 0.01,
        inner_steps: int = 16,
        lam: float = 1.0,
        cg_steps: int = 5,
        **options: object,
    ) -> None:
        super().__init__(model, inner_lr, inner_steps, **options)  # type: ignore[arg-type]
        if lam <= 0:
            raise ValueError(
                f"lam is {lam}; without a pull towards theta the minimum does"
                " not depend on it"
            )
        if self.programs is not None or self.first_order:
            raise ValueError(
                "the implicit gradient is neither compiled nor of first order:"
                " leave these options out"
            )
        self.lam, self.cg_steps = lam, cg_steps

    def extra_repr(self) -> str:
        """The settings that make another method or another run."""
        settings = f"inner_lr={self.inner_lr}, inner_steps={self.inner_steps}"
        return f"{settings}, lam={self.lam}, cg_steps={self.cg_steps}"

    def support_loss(
        self, weights: Weights, step: int, x: Tensor, y: Tensor, way: int | None
    ) -> Tensor:
        """The losses on the support sets, and the pull towards theta."""
        theta = self.adapted()
        pull = torch.stack(
            [
                (w - theta[name].detach()).square().sum()
                for name, w in weights.items()
            ]
        ).sum()
        return (
            super().support_loss(weights, step, x, y, way) + self.lam / 2 * pull
        )

    def backward(self, episode: Episode) -> float:
        """Add the implicit gradient of the mean query loss to ``.grad`` and
        return the loss.
        """
        episode, way = self.in_columns(episode)
        total = 0.0
        for part in episode.split(self._together(episode.support_x)):
            with torch.no_grad():
                (fast,) = self._path(
                    part.support_x, part.support_y, way, None, every=False
                )
            phi = {name: w.requires_grad_() for name, w in fast.items()}
            with torch.enable_grad(), twice_differentiable():
                phi_and_more = self._finish(
                    phi, self.inner_steps, part.support_x
                )
                loss = self._query_loss(
                    phi_and_more, part.query_x, part.query_y, way
                )
                v = torch.autograd.grad(loss, list(phi.values()))
                # the pull adds lam to the Hessian of the support loss: (H +
                # lam) / lam = I + H / lam
                objective = self.support_loss(
                    phi, self.inner_steps, part.support_x, part.support_y, way
                )
                slopes = torch.autograd.grad(
                    objective, list(phi.values()), create_graph=True
                )

            def times_matrix(
                d: Tensor,
                slopes: tuple[Tensor, ...] = slopes,
                phi: Weights = phi,
            ) -> Tensor:
                pieces = _split(d, phi)
                product = torch.autograd.grad(
                    slopes, list(phi.values()), pieces, retain_graph=True
                )
                return _flat(product) / self.lam

            gradients = _split(
                conjugate_gradients(times_matrix, _flat(v), self.cg_steps), phi
            )
            for name, g in zip(phi, gradients, strict=True):
                add_to_grad(self.adapted()[name], g.sum(dim=0) / len(episode))
            total += float(loss.detach()) / len(episode)
        return total


def conjugate_gradients(
    times_matrix: Callable[[Tensor], Tensor], b: Tensor, steps: int
) -> Tensor:
    """Solve A_t x_t = b_t for every task at once, b of shape (T, n), with
    symmetric positive definite A_t.

    Parameters
    ----------
    times_matrix : callable
        d (T, n) to A_t d_t, (T, n).
    """
    x, r = torch.zeros_like(b), b.clone()
    d, rr = r.clone(), (r * r).sum(dim=1, keepdim=True)
    for _ in range(steps):
        ad = times_matrix(d)
        curvature = (d * ad).sum(dim=1, keepdim=True)
        # a task that is solved, or whose matrix is not positive along d, stays
        # where it is
        step = torch.where(curvature > 0, rr / curvature, torch.zeros_like(rr))
        x, r = x + step * d, r - step * ad
        rr, before = (r * r).sum(dim=1, keepdim=True), rr
        d = r + torch.where(before > 0, rr / before, torch.zeros_like(rr)) * d
    return x


def _flat(tensors: tuple[Tensor, ...]) -> Tensor:
    """Tensors (T, ...) side by side as (T, n)."""
    return torch.cat([t.flatten(1) for t in tensors], dim=1)


def _split(flat: Tensor, like: Weights) -> list[Tensor]:
    """The inverse of `_flat`."""
    pieces = torch.split(flat, [w[0].numel() for w in like.values()], dim=1)
    return [
        piece.view_as(w) for piece, w in zip(pieces, like.values(), strict=True)
    ]
