# SPDX-License-Identifier: MIT
"""Where the outer loops come to rest on quadratic tasks, against the closed
form.

L_i = a_i (theta - c_i)^2 / 2, with k inner steps of size alpha < 1 / max a: the
outer fixed point is sum(W c) / sum(W), with W = A (joint training), A (1 -
alpha A)^k (first-order MAML), A (1 - alpha A)^2k (MAML), 1 - (1 - alpha A)^k
(Reptile). Derived in section 4.1 of the book.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import metabook as mb

A, C, ALPHA = (
    torch.tensor([0.5, 1.0, 2.0]).double(),
    torch.tensor([0.0, 1.0, 3.0]).double(),
    0.3,
)


def tasks(a=A, c=C):
    """Linear regression through the origin whose mean squared error is a (theta
    - c)^2 / 2.
    """
    x = (a / 2).sqrt()[:, None, None]
    return mb.Episode(x, x * c[:, None, None], x, x * c[:, None, None])


def rest(learner, episode, lr=0.5):
    """Follow the outer gradient to its zero."""
    optimizer = torch.optim.SGD(learner.parameters(), lr=lr)
    for _ in range(400):
        optimizer.zero_grad()
        learner.backward(episode)
        optimizer.step()
    return next(learner.parameters()).item()


def learner(kind, steps):
    model = nn.Linear(1, 1, bias=False).double()
    options = {"inner_lr": ALPHA, "inner_steps": steps, "loss_fn": F.mse_loss}
    if kind == "reptile":
        return mb.Reptile(model, **options)
    return mb.MAML(model, first_order=kind == "first order", **options)


WEIGHTS = {
    "maml": lambda a, k: a * (1 - ALPHA * a) ** (2 * k),
    "first order": lambda a, k: a * (1 - ALPHA * a) ** k,
    "reptile": lambda a, k: 1 - (1 - ALPHA * a) ** k,
}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_the_outer_loop_comes_to_rest_where_the_closed_form_says(kind, steps):
    w = WEIGHTS[kind](A, steps)
    # the outer curvature is about the mean of W
    lr = 1.0 if kind == "reptile" else 1.0 / w.mean().item()
    assert rest(learner(kind, steps), tasks(), lr) == pytest.approx(
        (w * C).sum().item() / w.sum().item(), abs=1e-6
    )


@pytest.mark.parametrize(
    ("kind", "steps", "value"),
    [
        ("reptile", 1, 2.000),
        ("first order", 1, 1.610),
        ("maml", 1, 1.238),
        ("reptile", 5, 1.599),
    ],
)
def test_the_numbers_of_the_text(kind, steps, value):
    """With one step Reptile is joint training: 2.000 is the joint optimum."""
    assert rest(learner(kind, steps), tasks(), lr=1.0) == pytest.approx(
        value, abs=5e-4
    )


def test_equal_curvatures_make_all_of_them_coincide():
    flat = tasks(a=torch.ones(3).double())
    points = [rest(learner(kind, 3), flat, lr=1.0) for kind in WEIGHTS]
    assert points == pytest.approx([4 / 3] * 3, abs=1e-6)
