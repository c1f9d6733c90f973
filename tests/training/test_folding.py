# SPDX-License-Identifier: MIT
"""A folded network computes what the network computes, with less work."""

import copy

import pytest
import torch
from torch import nn

import metabook as mb
from metabook.training.folding import folded


def with_statistics(net, images):
    """Batch norm that has seen images: folding it has something to do."""
    net.train()
    for rows in torch.arange(len(images)).split(200):
        net(images.pixels(rows))
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.5, 0.5)
    return net.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options", [{}, {"strided": True}, {"out": 5}, {"out": 5, "strided": True}]
)
def test_a_folded_network_computes_the_same(options, dtype, images):
    net = with_statistics(mb.Conv4(width=16, **options), images).to(dtype)
    x = images.pixels(torch.arange(0, 200, 7)).to(dtype)
    state = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        expected, values = net(x), folded(net)(x)
    assert (values - expected).abs().max() <= (
        1e-5 if dtype == torch.float32 else 1e-13
    ) * expected.abs().max()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded(net).modules())
    assert all(
        torch.equal(a, b)
        for a, b in zip(state.values(), net.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    "net",
    [
        mb.Conv4(width=4, norm="group"),
        mb.Conv4(width=4, norm="batch_stats"),
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.BatchNorm2d(3)),
        nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 3, 3)),
        nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 3, 3)),
            nn.BatchNorm2d(3),
        ),
    ],
)
def test_what_cannot_be_folded_stays(net):
    x = torch.rand(3, 1, 28, 28)
    assert list(map(type, folded(net).modules())) == list(
        map(type, net.modules())
    )
    assert torch.allclose(folded(net)(x), net.eval()(x))


def test_a_convolution_that_is_used_twice_is_folded_each_time():
    conv = nn.Conv2d(2, 2, 3, padding=1)
    net = nn.Sequential(
        conv, nn.BatchNorm2d(2), nn.ReLU(), conv, nn.BatchNorm2d(2)
    )
    net[1].weight.data.fill_(3.0)
    net[4].running_mean.fill_(0.7)
    x = torch.rand(3, 2, 6, 6)
    assert torch.allclose(folded(net)(x), net.eval()(x), atol=1e-5)
