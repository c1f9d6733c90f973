# SPDX-License-Identifier: MIT
"""Where search meets learning: the network that an architecture stands for,
trained, and scored on validation tasks.

The outer loop is the search; its inner loop is `TrainAndScore`, which is itself
the two loops of prototypical networks. Taught in section 3.2 of the book.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from metabook.data.glyphs import glyphs
from metabook.data.settings import described
from metabook.learner.protocol import Learner
from metabook.metric.protonet import ProtoNet
from metabook.nas.space import Architecture
from metabook.tasks.few_shot import FewShotTasks
from metabook.training.embedded import evaluate_embedded
from metabook.training.evaluate import evaluate
from metabook.training.scores import Score
from metabook.training.train import train

__all__ = ["TrainAndScore", "glyph_network", "glyph_tasks"]

SIZE = 16  # pixels a side: four halvings leave one


class TrainAndScore:
    """Score an architecture by training its network for a while, and testing it
    on validation tasks.

    Parameters
    ----------
    build : callable
        ``build(architecture)`` returns the network, an ``nn.Module``.
    tasks : tasks
        To train on.
    valid : tasks
        To score on, of other classes. The test tasks stay outside: what search
        has seen is no test.
    iterations : int
        The budget of a training: few rank the networks cheaply and badly, many
        dearly and well.
    episodes : int
        Validation tasks.
    lr : float
        Where the step size of Adam starts; it falls to zero along half a
        cosine.
    tasks_per_batch : int
    learner : callable
        ``learner(network)`` returns the few-shot learner around the network;
        `ProtoNet` unless given.
    seed : int
        Of the initial weights.

    Examples
    --------
    >>> import metabook as mb
    >>> tasks, valid, test = glyph_tasks()
    >>> evaluate = TrainAndScore(
    ...     glyph_network, tasks, valid, iterations=5, episodes=20
    ... )
    >>> 0 < evaluate(("conv3", "skip", "conv3", "skip")) < 100
    True
    """

    def __init__(
        self,
        build: Callable[[Architecture], nn.Module],
        tasks: FewShotTasks,
        valid: FewShotTasks,
        iterations: int = 200,
        episodes: int = 500,
        lr: float = 3e-3,
        tasks_per_batch: int = 1,
        learner: Callable[[nn.Module], Learner] = ProtoNet,
        seed: int = 0,
    ) -> None:
        self.build, self.learner = build, learner
        self.tasks, self.valid = tasks, valid
        self.iterations, self.episodes, self.lr = iterations, episodes, lr
        self.tasks_per_batch, self.seed = tasks_per_batch, seed

    def __call__(self, arch: Architecture) -> float:
        """Mean validation accuracy in percent, for `metabook.nas.search`."""
        return 100 * score(self.train(arch), self.valid, self.episodes).mean

    def settings(self) -> dict[str, Any]:
        """What tells this evaluation from another."""
        return {
            "build": described(self.build, "build"),
            "learner": described(self.learner, "learner"),
            "tasks": described(self.tasks, "tasks"),
            "valid": described(self.valid, "valid"),
            "iterations": self.iterations,
            "episodes": self.episodes,
            "lr": self.lr,
            "tasks_per_batch": self.tasks_per_batch,
            "seed": self.seed,
        }

    def train(self, arch: Architecture) -> Learner:
        """The trained learner. A network without weights is left as it is."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            learner = self.learner(self.build(arch))
        if any(p.requires_grad for p in learner.parameters()):
            train(
                learner,
                self.tasks,
                self.iterations,
                self.tasks_per_batch,
                lr=self.lr,
                schedule="cosine",
                progress=False,
            )
        return learner.eval()


def score(learner: Learner, tasks: FewShotTasks, episodes: int) -> Score:
    """What `evaluate` measures; each image is embedded once where it can be."""
    vectors = hasattr(learner, "embed") and not learner.transductive
    measure = evaluate_embedded if vectors else evaluate
    return measure(learner, tasks, episodes, progress=False)


def glyph_network(arch: Architecture, width: int = 16) -> nn.Module:
    """The network of an architecture of `metabook.nas.glyph_space`: `Conv4`
    with a choice in every block.

    A block is an operation, batch norm, max-pooling and a rectifier; ``"skip"``
    only pools.

    Parameters
    ----------
    arch : tuple of {"skip", "conv1", "conv3", "conv5", "sep5"}
        ``conv3`` is a 3 x 3 convolution; ``sep5`` a 5 x 5 convolution of each
        channel for itself and a 1 x 1 convolution across them.
    width : int
        Channels of every block, from the first convolution on.

    Returns
    -------
    nn.Module
        Maps images (B, 1, H, W) to (B, D); D is ``width`` at 16 x 16 pixels and
        four blocks.

    Raises
    ------
    ValueError
        If an operation is unknown.

    Examples
    --------
    >>> network = glyph_network(("conv3", "conv3", "skip", "conv5"))
    >>> network(torch.zeros(2, 1, 16, 16)).shape
    torch.Size([2, 16])
    """
    layers: list[nn.Module] = []
    channels = 1
    for op in arch:
        if op == "skip":
            layers += [nn.MaxPool2d(2)]
            continue
        layers += operation(str(op), channels, width)
        layers += [nn.BatchNorm2d(width), nn.MaxPool2d(2), nn.ReLU()]
        channels = width
    network = nn.Sequential(*layers, nn.Flatten())
    # faster on CPUs, same values
    layout = torch.channels_last
    network.to(memory_format=layout)  # type: ignore[call-overload]
    return network


def operation(op: str, channels: int, width: int) -> list[nn.Module]:
    """The convolutions of one block, from ``channels`` to ``width``."""
    conv = partial(nn.Conv2d, bias=False)
    if op == "sep5":
        return [
            conv(channels, channels, 5, padding=2, groups=channels),
            conv(channels, width, 1),
        ]
    sides = {"conv1": 1, "conv3": 3, "conv5": 5}
    if op not in sides:
        raise ValueError(
            f"operation {op!r} is unknown; choose 'skip', 'conv1', 'conv3',"
            " 'conv5' or 'sep5'"
        )
    return [conv(channels, width, sides[op], padding=sides[op] // 2)]


@cache
def glyph_tasks() -> tuple[FewShotTasks, FewShotTasks, FewShotTasks]:
    """The tasks of `metabook.nas.glyph_table`: 20-way 1-shot on small glyphs,
    to train, to validate and to test.

    The three parts have no character in common: 500, 250 and 250.

    Examples
    --------
    >>> for part in glyph_tasks():
    ...     print(part.images)
    LabelledImages(500 classes, 10000 images of 1 x 16 x 16)
    LabelledImages(250 classes, 5000 images of 1 x 16 x 16)
    LabelledImages(250 classes, 5000 images of 1 x 16 x 16)
    """
    characters = glyphs(classes=1000, size=SIZE, seed=0)
    parts = characters.split(0.5, 0.25, 0.25, seed=0)
    train, valid, test = (
        FewShotTasks(part, way=20, shot=1, query=5, seed=i)
        for i, part in enumerate(parts)
    )
    return train, valid, test
