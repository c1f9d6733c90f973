# SPDX-License-Identifier: MIT
"""Ways to get the outer gradient of MAML: metabook's, and those of its peers,
all from the same weights.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import fairness
import peers_maml
import timing
import torch
from maml_work import MEMORY, Work
from peers import Backward
from torch import Tensor, nn

import metabook as mb


def metabook(
    work: Work, model: nn.Module, episode: mb.Episode, **options: Any
) -> Backward:
    """The public way: a learner, an episode."""
    learner = mb.MAML(
        model,
        inner_lr=work.inner_lr,
        inner_steps=work.inner_steps,
        first_order=work.first_order,
        loss_fn=work.loss_fn,
        **options,
    )
    return lambda: learner.backward(episode)


@dataclass(frozen=True)
class Implementation:
    """A way to get the outer gradient: ``make(work, model, episode)`` returns a
    function that adds it to ``.grad``.
    """

    make: Callable[[Work, nn.Module, mb.Episode], Backward]
    # metabook's network, and Adam as `metabook.train` makes it; else the peers'
    # network, plain Adam
    ours: bool = False
    # the works that it can do, or is made for
    takes: Callable[[Work], bool] = lambda work: True
    # in which its outer gradient is compared, and how far it may be from
    # metabook's in float64, relative to that
    dtype: torch.dtype = torch.float64
    tolerance: float = 1e-6

    def model(self, work: Work) -> nn.Module:
        """The network with the same initial weights for everyone."""
        torch.manual_seed(0)
        ours = (
            mb.Conv4(out=work.way, norm="batch_stats")
            if work.way
            else mb.MLP(1, 1)
        )
        if self.ours:
            return ours
        return fairness.with_weights_of(
            ours, peers_maml.conv4(work.way) if work.way else peers_maml.mlp()
        )

    def gradient(self, work: Work, episode: mb.Episode) -> dict[str, Tensor]:
        """The outer gradient, to be compared."""
        model = self.model(work).to(self.dtype)
        self.make(work, model, episode.to(self.dtype))()
        return fairness.gradient_of(model)

    def iteration(self, work: Work, episode: mb.Episode) -> timing.Step:
        """One outer iteration: what is timed."""
        model = self.model(work)
        backward = self.make(work, model, episode)
        optimizer = torch.optim.Adam(model.parameters(), fused=self.ours)

        def step() -> None:
            optimizer.zero_grad()
            backward()
            optimizer.step()

        return step


def second_order(work: Work) -> bool:
    return not work.first_order


IMPLEMENTATIONS = {
    "metabook": Implementation(metabook, ours=True),
    "metabook, compiled": Implementation(
        partial(metabook, compiled=True),
        ours=True,
        takes=lambda work: work.data == "sinusoid",
    ),
    "metabook, bfloat16 queries": Implementation(
        partial(metabook, query_dtype=torch.bfloat16),
        ours=True,
        takes=lambda work: (
            work.way == 5 and work.threads == 2 and not work.first_order
        ),
        dtype=torch.float32,
        tolerance=0.2,
    ),
    "metabook, one task at a time": Implementation(
        partial(metabook, threads=1),
        ours=True,
        takes=lambda work: (
            work == replace(MEMORY, tasks=work.tasks, rounds=work.rounds)
        ),
    ),
    "learn2learn": Implementation(peers_maml.learn2learn),
    "higher": Implementation(peers_maml.higher, takes=second_order),
    "TorchOpt": Implementation(peers_maml.torchopt, takes=second_order),
    "naive loop": Implementation(peers_maml.naive_loop),
}
