# SPDX-License-Identifier: MIT
"""An episode of training a prototypical network: metabook and its peers, from
the same weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import fairness
import peers_metric
import timing
import torch
from peers import Backward
from torch import nn

import metabook as mb

Numbers = dict[str, Any]


def make_embedding() -> nn.Module:
    """metabook's network, with the initial weights that everyone has; its
    running statistics have seen images.
    """
    torch.manual_seed(0)
    net = mb.Conv4().train()
    with torch.no_grad():
        net(mb.glyphs(classes=20, seed=0).pixels(torch.arange(400)))
    return net.eval()


def plain_embedding() -> nn.Module:
    """The same function as the peers write it."""
    ours = make_embedding()
    plain = fairness.with_weights_of(ours, peers_metric.embedding())
    norms = [
        [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        for net in (ours, plain)
    ]
    for mine, theirs in zip(*norms, strict=True):
        theirs.load_state_dict(mine.state_dict())
    return plain.eval()


def metabook(net: nn.Module, episode: mb.Episode, **options: Any) -> Backward:
    """The public way: a learner, an episode."""
    learner = mb.ProtoNet(net, **options).train(net.training)
    return lambda: learner.backward(episode)


@dataclass(frozen=True)
class Trainer:
    """A way to get the gradient of an episode: ``make(net, episode)`` returns a
    function that adds it to ``.grad``.
    """

    make: Callable[[nn.Module, mb.Episode], Backward]
    # metabook's network, and Adam as `metabook.train` makes it; else the peers'
    # network, plain Adam
    ours: bool = False
    distance: str = "squared_euclidean"
    needs: str = ""  # the peer that must be there
    in_bfloat16: bool = False

    @property
    def tolerance(self) -> float:
        """Of the error of its gradient."""
        return 0.3 if self.in_bfloat16 else 1e-6

    def net(self) -> nn.Module:
        """With the same weights for everyone."""
        return make_embedding() if self.ours else plain_embedding()

    def error(self, episode: mb.Episode) -> float:
        """Of the gradient in float64, relative to metabook's; of the one in
        bfloat16 in float32.

        In evaluation mode, where it does not matter that easyfsl embeds support
        and queries separately. Half precision is there for training alone, and
        compared in that mode.
        """
        dtype = torch.float32 if self.in_bfloat16 else torch.float64
        ours = partial(metabook, distance=self.distance)
        expected, found = (
            gradient(make, net.train(self.in_bfloat16).to(dtype), episode)
            for make, net in ((ours, make_embedding()), (self.make, self.net()))
        )
        # the peers' convolutions have a bias, which training mode takes away
        # again and evaluation mode does not
        return fairness.relative_error(
            {key: found[key] for key in expected}, expected
        )

    def iteration(self, episode: mb.Episode) -> timing.Step:
        """One update: what is timed."""
        net = self.net().train()
        backward = self.make(net, episode)
        optimizer = torch.optim.Adam(net.parameters(), fused=self.ours)

        def step() -> None:
            optimizer.zero_grad()
            backward()
            optimizer.step()

        return step


def gradient(
    make: Callable[[nn.Module, mb.Episode], Backward],
    net: nn.Module,
    episode: mb.Episode,
) -> dict[str, torch.Tensor]:
    """Of an episode, in the type of the network's weights."""
    make(net, episode.to(next(net.parameters()).dtype))()
    return fairness.gradient_of(net)


TRAINERS = {
    "metabook": Trainer(metabook, ours=True),
    "metabook, bfloat16 embedding": Trainer(
        partial(metabook, embedding_dtype=torch.bfloat16),
        ours=True,
        in_bfloat16=True,
    ),
    "easyfsl": Trainer(
        peers_metric.easyfsl, distance="euclidean", needs="easyfsl"
    ),
    "learn2learn's example": Trainer(peers_metric.learn2learn),
    "authors' code": Trainer(peers_metric.authors, needs="authors"),
}


@dataclass(frozen=True)
class Training:
    """One episode of 60 classes with 5 support and 5 query images each, as the
    paper trains.
    """

    threads: int
    way: int = 60
    rounds: int = 10

    def measure(self) -> Numbers:
        """Check all gradients, then time everyone whose gradient is right."""
        torch.set_num_threads(self.threads)
        replies = peers_metric.found()
        missing = {
            name: replies[trainer.needs]
            for name, trainer in TRAINERS.items()
            if "error" in replies.get(trainer.needs, {})
        }
        images = mb.glyphs(classes=max(self.way, 5), seed=1)
        few, episode = (
            mb.FewShotTasks(images, way=way, shot=5, query=5, seed=0).sample(1)
            for way in (5, self.way)
        )

        def get_ready(trainer: Trainer) -> tuple[Numbers, timing.Step | None]:
            return fairness.checked(
                trainer.error(few),
                trainer.tolerance,
                lambda: trainer.iteration(episode),
            )

        report, times = timing.compare(
            {name: partial(get_ready, t) for name, t in TRAINERS.items()},
            missing,
            self.rounds,
            1,
            "training",
        )
        for name, entry in timing.summary(times, "easyfsl").items():
            report[name] |= entry
        return {
            "threads": self.threads,
            "way": self.way,
            "shot": 5,
            "query": 5,
            "implementations": report,
        }
