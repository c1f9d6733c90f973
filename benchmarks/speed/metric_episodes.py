# SPDX-License-Identifier: MIT
"""Episodes of prototypical networks without training: evaluation and sampling,
metabook and its peers.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import peers_metric
import peers_sampling
import timing
import torch
from metric_training import make_embedding, plain_embedding
from torch import nn

import metabook as mb

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """5-way 1-shot with 15 queries a class on 423 classes of 20 images; the
    peer's time is in proportion to episodes.
    """

    threads: int
    episodes: int
    peer_episodes: int = 100
    classes: int = 423
    rounds: int = 5

    def measure(self) -> Numbers:
        """Milliseconds an episode."""
        torch.set_num_threads(self.threads)
        images = mb.glyphs(classes=self.classes, seed=2)
        learner = mb.ProtoNet(make_embedding()).eval()
        tasks = mb.FewShotTasks(images, way=5, shot=1, query=15, seed=0)
        few = self.peer_episodes

        def embedded_once() -> object:
            return mb.evaluate_embedded(learner, tasks, self.episodes)

        def easyfsl() -> tuple[Numbers, timing.Step]:
            plain = plain_embedding()
            others = other_predictions(plain, learner, tasks.sample(8))
            return {"other_predictions": others}, (
                peers_sampling.easyfsl_evaluation(plain, images, 5, 1, 15, few)
            )

        report, times = timing.compare(
            {
                "metabook, embedded once": lambda: ({}, embedded_once),
                "metabook, episode by episode": lambda: (
                    {},
                    lambda: mb.evaluate(learner, tasks, episodes=few),
                ),
                "easyfsl": easyfsl,
            },
            missing(),
            self.rounds,
            1,
            "evaluation",
        )
        timed = dict.fromkeys(times, few)
        timed["metabook, embedded once"] = self.episodes
        per_episode = {who: times[who] / timed[who] for who in times}
        for who, entry in timing.summary(per_episode, "easyfsl").items():
            report[who] |= {"episodes_timed": timed[who]} | entry
        return {
            "threads": self.threads,
            "episodes": self.episodes,
            "implementations": report,
        }


def missing() -> dict[str, dict[str, str]]:
    """The peers that could not be had, and why."""
    replies = peers_metric.found().items()
    return {name: reply for name, reply in replies if "error" in reply}


def other_predictions(
    net: nn.Module, learner: mb.ProtoNet, episodes: mb.Episode
) -> int:
    """Of how many queries easyfsl says something else than metabook: ties by
    rounding only.
    """
    from easyfsl.methods import PrototypicalNetworks

    classifier, others = PrototypicalNetworks(net).eval(), 0
    with torch.no_grad():
        for episode in episodes.tasks():
            support_x, support_y, query_x, _ = peers_metric.one(episode)
            classifier.process_support_set(support_x, support_y)
            ours = learner.predict(
                episode.support_x, episode.support_y, episode.query_x
            )[0]
            others += int((classifier(query_x).argmax(dim=1) != ours).sum())
    return others


@dataclass(frozen=True)
class Sampling:
    """5-way 1-shot with 15 queries a class, from 423 classes of 20 images, as
    tensors of floats.
    """

    episodes: int = 320
    classes: int = 423
    rounds: int = 10

    def measure(self) -> Numbers:
        """Milliseconds an episode."""
        torch.set_num_threads(1)
        images = mb.glyphs(classes=self.classes, seed=2)
        tasks = mb.FewShotTasks(images, way=5, shot=1, query=15, seed=0)

        def in_batches(of: int) -> list[mb.Episode]:
            return [
                tasks.sample(of, start) for start in range(0, self.episodes, of)
            ]

        def of_peer(make: Any) -> tuple[Numbers, timing.Step]:
            return {}, make(images, 5, 1, 15, self.episodes)

        report, times = timing.compare(
            {
                "metabook, one at a time": lambda: ({}, partial(in_batches, 1)),
                "metabook, batches of 32": lambda: (
                    {},
                    partial(in_batches, 32),
                ),
                "learn2learn": partial(
                    of_peer, peers_sampling.learn2learn_sampling
                ),
                "easyfsl": partial(of_peer, peers_sampling.easyfsl_sampling),
            },
            missing(),
            self.rounds,
            1,
            "sampling",
        )
        per_episode = {who: t / self.episodes for who, t in times.items()}
        for who, entry in timing.summary(per_episode, "learn2learn").items():
            report[who] |= entry
        return {
            "threads": 1,
            "episodes": self.episodes,
            "implementations": report,
        }
