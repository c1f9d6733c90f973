# SPDX-License-Identifier: MIT
"""The bill of section 1.1: how many images a network sees until it knows the
characters of a task, from random weights and from the task before.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import metabook as mb

WAY, DRAWINGS = 20, 40  # of a task; those to learn from


def bill(
    images: mb.LabelledImages, seed: int, most: int = 600
) -> dict[str, list[int]]:
    """A chain of tasks, each from random weights and from the body of the task
    before, with at most so many steps each.
    """
    seen: dict[str, list[int]] = {"from zero": [], "carrying over": []}
    order = np.random.default_rng(seed).permutation(len(images.names))
    body = None
    for k in range(len(order) // WAY):
        task = drawings(images, order[WAY * k : WAY * (k + 1)])
        for name in seen:
            torch.manual_seed(10 * seed + k)
            network = nn.Sequential(mb.Conv4(width=32), nn.Linear(32, WAY))
            if name == "carrying over" and body is not None:
                network[0] = body
            seen[name].append(images_until(network, *task, most=most))
        body = network[0]
    return seen


def drawings(
    images: mb.LabelledImages, classes: np.ndarray
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels and labels to learn from, and those of 20 more drawings of each to
    test on.
    """
    first = torch.from_numpy(images.offsets[classes])[:, None]
    rows = first + torch.arange(DRAWINGS + 20)
    y = torch.arange(WAY)[:, None].expand(rows.shape)
    train, test = slice(DRAWINGS), slice(DRAWINGS, None)
    return (
        images.pixels(rows[:, train].flatten()),
        y[:, train].flatten(),
        images.pixels(rows[:, test].flatten()),
        y[:, test].flatten(),
    )


def images_until(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    most: int,
    goal: float = 0.9,
) -> int:
    """Train with 32 images a step until this share of the test is right; how
    many images that took.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=0.005)
    for step in range(most):
        network.eval()
        with torch.no_grad():
            if (
                step % 5 == 0
                and (network(test_x).argmax(dim=1) == test_y).double().mean()
                >= goal
            ):
                return 32 * step
        rows = torch.randint(len(x), (32,))
        network.train()
        optimizer.zero_grad()
        F.cross_entropy(network(x[rows]), y[rows]).backward()
        optimizer.step()
    return 32 * most
