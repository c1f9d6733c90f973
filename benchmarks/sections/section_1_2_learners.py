# SPDX-License-Identifier: MIT
"""The learners of sections 1.1 and 1.2: trained on many characters, and what
can be done with the features that come from it.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import metabook as mb

Settings = dict[str, Any]


@cache
def classifier(
    images: mb.LabelledImages,
    iterations: int,
    seed: int,
    batch: int,
    lr: float,
) -> nn.Module:
    """Ordinary training: one output for each of the characters, which is thrown
    away afterwards.
    """
    torch.manual_seed(seed)
    features = mb.Conv4(width=32)
    net = nn.Sequential(features, nn.Linear(32, len(images.names)))
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    labels = torch.from_numpy(
        np.repeat(np.arange(len(images.names)), images.counts)
    )
    for _ in range(iterations):
        rows = torch.randint(len(images), (batch,))
        optimizer.zero_grad()
        F.cross_entropy(net(images.pixels(rows)), labels[rows]).backward()
        optimizer.step()
        schedule.step()
    return features.eval()


def protonet(
    images: mb.LabelledImages, iterations: int, seed: int, lr: float
) -> mb.ProtoNet:
    """Meta-training: every iteration is a task of 20 characters, one support
    drawing and five queries of each.
    """
    torch.manual_seed(seed)
    learner = mb.ProtoNet(mb.Conv4(width=32))
    mb.train(
        learner,
        mb.FewShotTasks(images, way=20, shot=1, query=5, seed=seed),
        iterations=iterations,
        tasks_per_batch=1,
        lr=lr,
        schedule="cosine",
        progress=False,
    )
    return learner


def maml(
    images: mb.LabelledImages,
    iterations: int,
    seed: int,
    lr: float,
    options: Settings,
) -> mb.MAML:
    """Meta-training: every iteration is four tasks of five characters, one
    support drawing and five queries of each.
    """
    torch.manual_seed(seed)
    learner = mb.MAML(
        mb.Conv4(out=5, width=32, norm=options["norm"]),
        inner_lr=options["inner_lr"],
        inner_steps=options["inner_steps"],
    )
    mb.train(
        learner,
        mb.FewShotTasks(images, way=5, shot=1, query=5, seed=seed),
        iterations=iterations,
        tasks_per_batch=4,
        lr=lr,
        schedule="cosine",
        progress=False,
    )
    learner.inner_steps = options["inner_steps_at_test"]
    return learner


def on_features(
    features: nn.Module, images: mb.LabelledImages, head: Settings
) -> dict[str, mb.Learner]:
    """What can be done with features that stay as they are."""
    return {
        "head": mb.FineTuning(features, **head),
        "neighbour": mb.NearestNeighbour(features, distance="cosine"),
        "centroid": mb.NearestCentroid(
            features, center=center_of(features, images)
        ),
    }


def center_of(features: nn.Module, images: mb.LabelledImages) -> Tensor:
    """The mean feature vector of the training images."""
    with torch.no_grad():
        return torch.cat(
            [
                features(images.pixels(rows))
                for rows in torch.arange(len(images)).split(64)
            ]
        ).mean(dim=0)


def all_weights(
    features: nn.Module, options: Settings
) -> Callable[[int], mb.FullFineTuning]:
    """The learner for each number of shots."""

    def learner(shot: int) -> mb.FullFineTuning:
        return mb.FullFineTuning(
            features,
            steps=options["steps_from_50_shots" if shot >= 50 else "steps"],
            lr=options["lr"],
            batch=options["batch"],
        )

    return learner
