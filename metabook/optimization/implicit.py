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
import torch.nn.functional as F
from torch import Tensor

from metabook.learner.losses import LossFn
from metabook.learner.precision import refuse_half_precision
from metabook.optimization.checks import refuse_hooks_of_weights
from metabook.optimization.inner_loop import Weights, add_to_grad
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
    loss_fn, vectorized, threads
        As in `MAML`.

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
        *,
        lam: float = 1.0,
        cg_steps: int = 5,
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
        if lam <= 0:
            raise ValueError(
                f"lam is {lam}; without a pull towards theta the minimum does"
                " not depend on it"
            )
        self.lam, self.cg_steps = lam, cg_steps

    def extra_repr(self) -> str:
        """The settings, for printing."""
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

    def loss(self, episode: Episode) -> Tensor:
        """Raises: backward does not differentiate the path to the minimum."""
        raise NotImplementedError(
            "the implicit gradient is not what a loss computed along the inner"
            " loop would give: call backward(episode), which adds it to .grad"
            " and returns the query loss"
        )

    def backward(self, episode: Episode) -> float:
        """Add the implicit gradient of the mean query loss to ``.grad``, and
        return that loss.

        Raises
        ------
        ValueError, RuntimeError
            In half precision, by the weights or by autocast, where conjugate
            gradients lose all digits; or if a weight has a hook.
        """
        refuse_half_precision(self.adapted())
        refuse_hooks_of_weights(self)
        return super().backward(episode)

    def add_gradient(self, part: Episode, way: int | None, tasks: int) -> float:
        """Add this part's share of the implicit gradient of the mean query loss
        to ``.grad``, and return its share of that loss.
        """
        with torch.no_grad():
            phi = self.learn(part.support_x, part.support_y, way)
        phi = {name: phi[name].requires_grad_() for name in self.adapted()}
        fast = self.finish(phi, self.inner_steps, part.support_x)
        loss = self.query_loss(fast, part.query_x, part.query_y, way)
        v = torch.autograd.grad(loss, list(phi.values()))
        # the pull adds lam to the Hessian of the support loss:
        # (H + lam) / lam = I + H / lam
        objective = self.support_loss(
            phi, self.inner_steps, part.support_x, part.support_y, way
        )
        slopes = torch.autograd.grad(
            objective, list(phi.values()), create_graph=True
        )

        def times_matrix(d: Tensor) -> Tensor:
            product = torch.autograd.grad(
                slopes, list(phi.values()), _split(d, phi), retain_graph=True
            )
            return _flat(product) / self.lam

        x = conjugate_gradients(times_matrix, _flat(v), self.cg_steps)
        for name, g in zip(phi, _split(x, phi), strict=True):
            add_to_grad(self.adapted()[name], g.sum(dim=0) / tasks)
        return float(loss.detach()) / tasks


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
