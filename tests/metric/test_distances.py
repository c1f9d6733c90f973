# SPDX-License-Identifier: MIT
"""Distances of features that lie far from zero and close together."""

import pytest
import torch
import torch.nn.functional as F

import metabook as mb
from metabook.metric.distances import (
    DISTANCES,
    cosine,
    euclidean,
    squared_euclidean,
)


def far_and_close(mean=100.0, spread=0.01, dtype=torch.float32):
    """Three tasks, each somewhere else."""
    g = torch.Generator().manual_seed(0)
    centre = mean * torch.randn(3, 1, 64, generator=g).sign()
    z = torch.randn(3, 75, 64, generator=g) * spread + centre
    c = torch.randn(3, 5, 64, generator=g) * spread + centre
    return z.to(dtype), c.to(dtype)


def naive(z, c):
    return (z[:, :, None] - c[:, None]).square().sum(dim=-1)


NAIVE = {
    "squared_euclidean": naive,
    "euclidean": lambda z, c: naive(z, c).sqrt(),
    "manhattan": lambda z, c: (z[:, :, None] - c[:, None]).abs().sum(dim=-1),
    "cosine": lambda z, c: (
        1 - F.cosine_similarity(z[:, :, None], c[:, None], dim=-1)
    ),
}


@pytest.mark.parametrize("mean", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("name", DISTANCES)
def test_they_agree_with_the_differences_in_double_precision(name, mean):
    z, c = far_and_close(mean)
    exact = NAIVE[name](z.double(), c.double())
    rtol = 1e-3 if name == "cosine" else 1e-5
    assert torch.allclose(DISTANCES[name](z, c).double(), exact, rtol, atol=0)


def test_zeros_have_no_direction():
    z, c = far_and_close(mean=0.0)
    z[0, 0], c[0, 1] = 0, 0
    assert torch.equal(cosine(z, c)[0, 0], torch.ones(5))
    assert torch.allclose(cosine(z, c)[0, :, 1], torch.ones(75))


def test_so_do_their_gradients():
    gradients = []
    for distance, dtype in ((squared_euclidean, 32), (naive, 64)):
        z, c = far_and_close(dtype=getattr(torch, f"float{dtype}"))
        z.requires_grad_()
        c.requires_grad_()
        weights = torch.linspace(-1, 1, 3 * 75 * 5, dtype=z.dtype)
        loss = (weights.view(3, 75, 5) * distance(z, c)).sum()
        gradients.append(torch.autograd.grad(loss, [z, c]))
    for got, exact in zip(*gradients, strict=True):
        assert (got - exact).norm() < 1e-5 * exact.norm()


def test_so_do_their_second_derivatives():
    z, c = far_and_close(mean=3.0, spread=1.0, dtype=torch.float64)
    z, c = z[:1, :3, :4].requires_grad_(), c[:1, :2, :4].requires_grad_()
    assert torch.autograd.gradcheck(squared_euclidean, (z, c))
    assert torch.autograd.gradgradcheck(squared_euclidean, (z, c))
    assert torch.autograd.gradgradcheck(euclidean, (z, c))
    assert torch.autograd.gradgradcheck(cosine, (z, c))


def test_a_point_has_no_distance_from_itself():
    z, _ = far_and_close()
    distances = squared_euclidean(z, z).diagonal(dim1=1, dim2=2)
    assert (distances >= 0).all()
    assert distances.max() < 1e-4 * squared_euclidean(z, z).max()


@pytest.mark.parametrize("make", [mb.ProtoNet, mb.NearestNeighbour])
def test_what_is_far_from_zero_is_told_apart(make):
    """The case: 5 % right, where the differences give 100 %."""
    g = torch.Generator().manual_seed(0)
    centres = 100 + 0.01 * torch.randn(1, 20, 64, generator=g)
    y = torch.arange(20).expand(1, 20)
    queries = centres + 0.001 * torch.randn(1, 20, 64, generator=g)
    learner = make(torch.nn.Identity()).eval()
    assert torch.equal(learner.predict(centres, y, queries), y)
