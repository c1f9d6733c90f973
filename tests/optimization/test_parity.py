# SPDX-License-Identifier: MIT
"""The outer gradient against an independent implementation: higher, of Facebook
AI Research, now archived.
"""

import pytest
import torch
import torch.nn.functional as F
from conftest import small_conv
from gradients import outer_gradient

import metabook as mb

higher = pytest.importorskip(
    "higher",
    reason="pip install higher, to compare MAML with another implementation",
)


def by_higher(net, episode, lr, steps):
    net.zero_grad()
    for task in episode.tasks():
        optimizer = torch.optim.SGD(net.parameters(), lr=lr)
        with higher.innerloop_ctx(
            net, optimizer, copy_initial_weights=False
        ) as (functional, differentiable):
            for _ in range(steps):
                differentiable.step(
                    F.cross_entropy(
                        functional(task.support_x[0]), task.support_y[0]
                    )
                )
            (
                F.cross_entropy(functional(task.query_x[0]), task.query_y[0])
                / len(episode)
            ).backward()
    return torch.cat([p.grad.flatten() for p in net.parameters()])


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("norm", ["batch_stats", "group"])
@pytest.mark.parametrize("vectorized", [False, True])
def test_a_convolutional_network_has_the_outer_gradient_that_higher_computes(
    steps, norm, vectorized, tasks
):
    net, episode = (
        small_conv(out=5, norm=norm).double(),
        tasks.sample(3).to(torch.float64),
    )
    expected = by_higher(net, episode, 0.4, steps).clone()
    got = outer_gradient(
        mb.MAML(net, inner_lr=0.4, inner_steps=steps, vectorized=vectorized),
        episode,
    )
    assert torch.allclose(
        got, expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item() * 1e-3
    )
