# SPDX-License-Identifier: MIT
"""Outer gradients against central differences, and the small problems that they
are compared on.
"""

import itertools

import torch
from torch import nn

import metabook as mb


def curved_net():
    return nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def task_batch(tasks=2, support=6, query=5, features=2, way=3):
    g = torch.Generator().manual_seed(1)
    x, q = (
        torch.randn(tasks, n, features, generator=g, dtype=torch.float64)
        for n in (support, query)
    )
    return mb.Episode(
        x,
        torch.arange(support).remainder(way).repeat(tasks, 1),
        q,
        torch.arange(query).remainder(way).repeat(tasks, 1),
    )


def numeric_gradient(loss, parameters, eps=1e-5):
    """Central differences of a whole function of the parameters."""
    grads = []
    for p in parameters:
        g = torch.zeros_like(p)
        for i in itertools.product(*map(range, p.shape)):
            with torch.no_grad():
                old = p[i].item()
                p[i] = old + eps
                up = loss()
                p[i] = old - eps
                down = loss()
                p[i] = old
            g[i] = (up - down) / (2 * eps)
        grads.append(g)
    return grads


def outer_gradient(learner, episode):
    learner.zero_grad()
    learner.backward(episode)
    return torch.cat([p.grad.flatten() for p in learner.parameters()])


def assert_exact(learner, episode, atol=1e-9):
    """The outer gradient agrees with central differences of the whole
    adapt-then-query function.
    """

    def loss():
        with torch.no_grad():
            return learner.loss(episode).item()

    numeric = torch.cat(
        [g.flatten() for g in numeric_gradient(loss, learner.parameters())]
    )
    assert torch.allclose(
        outer_gradient(learner, episode), numeric, rtol=1e-6, atol=atol
    )


class Quadratic(nn.Module):
    """L(theta) = theta' A theta / 2 - b' theta, as a model whose prediction is
    its loss.
    """

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        m = torch.randn(4, 4, generator=g, dtype=torch.float64)
        self.A = m @ m.T / 4 + torch.eye(4, dtype=torch.float64)
        self.b = torch.randn(4, generator=g, dtype=torch.float64)
        self.theta = nn.Parameter(
            torch.randn(4, generator=g, dtype=torch.float64)
        )

    def forward(self, x):
        return (
            self.theta @ self.A @ self.theta / 2 - self.b @ self.theta
        ).expand(len(x), 1)
