# SPDX-License-Identifier: MIT
"""Time prototypical networks: training, evaluation and sampling beside easyfsl,
learn2learn and the authors' code.

    python benchmarks/speed_metric.py                    # everything, about a quarter of an hour on two idle cores
    python benchmarks/speed_metric.py --list
    python benchmarks/speed_metric.py --work training    # what begins with this name, anew
    python benchmarks/speed_metric.py --quick            # tiny, to try the command; keeps nothing

Same weights, same images. Before anything is timed, gradients and predictions
are compared with metabook's. Every part runs in a process of its own and leaves
a file in runs/speed_metric; the same line again goes on after the last finished
one. When all are there, the result goes to
metabook/book/results/speed_metric.json.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import peers
import peers_metric
import timing
import torch
from torch import nn

import metabook as mb

# glibc gives large tensors back to the system and gets them anew, page by page,
# unless told otherwise
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}


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
    plain = timing.with_weights_of(ours, peers_metric.embedding())
    norms = [
        [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        for net in (ours, plain)
    ]
    for mine, theirs in zip(*norms, strict=True):
        theirs.load_state_dict(mine.state_dict())
    return plain.eval()


def metabook(
    net: nn.Module, episode: mb.Episode, **options: Any
) -> peers.Backward:
    """The public way: a learner, an episode."""
    learner = mb.ProtoNet(net, **options).train(net.training)
    return lambda: learner.backward(episode)


@dataclass(frozen=True)
class Trainer:
    """A way to get the gradient of an episode: ``make(net, episode)`` returns a
    function that adds it to ``.grad``.
    """

    make: Callable[[nn.Module, mb.Episode], peers.Backward]
    # metabook's network, and Adam as `metabook.train` makes it; else the peers'
    # network, plain Adam
    ours: bool = False
    distance: str = "squared_euclidean"
    needs: str | None = None  # the peer that must be there
    half: bool = False

    def net(self) -> nn.Module:
        """With the same weights for everyone."""
        return make_embedding() if self.ours else plain_embedding()

    def error(self, episode: mb.Episode) -> float:
        """Of the gradient in float64, relative to metabook's; of the
        half-precision one in float32.

        In evaluation mode, where it does not matter that easyfsl embeds support
        and queries separately. Half precision is there for training alone, and
        compared in that mode.
        """
        dtype = torch.float32 if self.half else torch.float64
        gradients = []
        for make, net in (
            (partial(metabook, distance=self.distance), make_embedding()),
            (self.make, self.net()),
        ):
            make(net.train(self.half).to(dtype), episode.to(dtype))()
            gradients.append(timing.gradient_of(net))
        expected, found = gradients
        # the peers' convolutions have a bias, which training mode takes away
        # again and evaluation mode does not
        return timing.relative_error(
            {key: found[key] for key in expected}, expected
        )

    def iteration(self, episode: mb.Episode) -> Callable[[], None]:
        """One update: what is timed."""
        net = self.net().train()
        backward, optimizer = (
            self.make(net, episode),
            torch.optim.Adam(net.parameters(), fused=self.ours),
        )

        def step() -> None:
            optimizer.zero_grad()
            backward()
            optimizer.step()

        return step


TRAINERS = {
    "metabook": Trainer(metabook, ours=True),
    "metabook, bfloat16 embedding": Trainer(
        partial(metabook, embedding_dtype=torch.bfloat16), ours=True, half=True
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

    def measure(self) -> dict[str, Any]:
        """Check everyone's gradient, then time those whose gradient is right."""
        torch.set_num_threads(self.threads)
        missing = {
            name: reply
            for name, reply in peers_metric.found().items()
            if "error" in reply
        }
        images = mb.glyphs(classes=max(self.way, 5), seed=1)
        few = mb.FewShotTasks(images, 5, shot=5, query=5, seed=0).sample(1)
        episode = mb.FewShotTasks(
            images, self.way, shot=5, query=5, seed=0
        ).sample(1)
        report: dict[str, dict[str, Any]] = {}
        steps: dict[str, Callable[[], Any]] = {}
        for name, trainer in TRAINERS.items():
            report[name] = dict(missing.get(trainer.needs or "", {}))
            if report[name]:
                continue
            try:
                error = trainer.error(few)
                report[name] = {"gradient_error": float(f"{error:.2g}")}
                if error <= (0.3 if trainer.half else 1e-6):
                    steps[name] = trainer.iteration(episode)
                else:
                    report[name]["error"] = (
                        "its gradient is another one: not timed"
                    )
            except Exception as failure:  # the others go on
                report[name] = {"error": peers.reason(failure)}
        for name, entry in timing.summary(
            timing.time_in_turn(steps, self.rounds, 1, "training"), "easyfsl"
        ).items():
            report[name] |= entry
        return {
            "threads": self.threads,
            "way": self.way,
            "shot": 5,
            "query": 5,
            "implementations": report,
        }


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

    def measure(self) -> dict[str, Any]:
        """Milliseconds an episode."""
        torch.set_num_threads(self.threads)
        images, net = mb.glyphs(classes=self.classes, seed=2), make_embedding()
        learner, tasks, few = (
            mb.ProtoNet(net).eval(),
            mb.FewShotTasks(images, 5, 1, 15, seed=0),
            self.peer_episodes,
        )
        steps: dict[str, Callable[[], Any]] = {
            "metabook, embedded once": lambda: mb.evaluate_embedded(
                learner, tasks, self.episodes
            ),
            "metabook, episode by episode": lambda: mb.evaluate(
                learner, tasks, few
            ),
        }
        counts = {
            "metabook, embedded once": self.episodes,
            "metabook, episode by episode": few,
        }
        report: dict[str, dict[str, Any]] = {name: {} for name in steps}
        reply = peers_metric.found()["easyfsl"]
        report["easyfsl"] = reply if "error" in reply else {}
        if not report["easyfsl"]:
            try:
                plain = plain_embedding()
                report["easyfsl"] = {
                    "other_predictions": other_predictions(
                        plain, learner, tasks.sample(8)
                    )
                }
                steps["easyfsl"] = peers_metric.easyfsl_evaluation(
                    plain, images, 5, 1, 15, few
                )
                counts["easyfsl"] = few
            except Exception as failure:
                report["easyfsl"] = {"error": peers.reason(failure)}
        times = timing.time_in_turn(steps, self.rounds, 1, "evaluation")
        per_episode = {
            name: seconds / counts[name] for name, seconds in times.items()
        }
        for name, entry in timing.summary(per_episode, "easyfsl").items():
            report[name] |= {"episodes_timed": counts[name]} | entry
        return {
            "threads": self.threads,
            "episodes": self.episodes,
            "implementations": report,
        }


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

    def measure(self) -> dict[str, Any]:
        """Milliseconds an episode."""
        torch.set_num_threads(1)
        images = mb.glyphs(classes=self.classes, seed=2)
        tasks, setting = (
            mb.FewShotTasks(images, 5, 1, 15, seed=0),
            (images, 5, 1, 15, self.episodes),
        )
        steps: dict[str, Callable[[], Any]] = {
            "metabook, one at a time": lambda: [
                tasks.sample(1, i) for i in range(self.episodes)
            ],
            "metabook, batches of 32": lambda: [
                tasks.sample(32, i) for i in range(0, self.episodes, 32)
            ],
        }
        report: dict[str, dict[str, Any]] = {name: {} for name in steps}
        replies = peers_metric.found()
        others = {
            "learn2learn": peers_metric.learn2learn_sampling,
            "easyfsl": peers_metric.easyfsl_sampling,
        }
        for name, make in others.items():
            report[name] = replies[name] if "error" in replies[name] else {}
            if not report[name]:
                try:
                    steps[name] = make(*setting)
                except Exception as failure:
                    report[name] = {"error": peers.reason(failure)}
        times = timing.time_in_turn(steps, self.rounds, 1, "sampling")
        per_episode = {
            name: seconds / self.episodes for name, seconds in times.items()
        }
        for name, entry in timing.summary(per_episode, "learn2learn").items():
            report[name] |= entry
        return {
            "threads": 1,
            "episodes": self.episodes,
            "implementations": report,
        }


def all_parts(quick: bool) -> dict[str, timing.Part]:
    """What a full run measures, by name; every part has a process of its own."""
    works: dict[str, Training | Evaluation | Sampling] = {
        "sampling-1thread": Sampling()
    }
    works |= {f"training-{n}thread": Training(n) for n in (1, 2)}
    works |= {
        f"evaluation-{e}-{n}thread": Evaluation(n, e)
        for n in (1, 2)
        for e in (600, 10_000)
    }
    if quick:
        small: dict[type, dict[str, int]] = {
            Sampling: {"episodes": 32, "classes": 30, "rounds": 2},
            Training: {"way": 6, "rounds": 2},
            Evaluation: {
                "episodes": 40,
                "peer_episodes": 4,
                "classes": 10,
                "rounds": 2,
            },
        }
        works = {
            name: replace(work, **small[type(work)])
            for name, work in works.items()
        }
    parts = {name: timing.Part(work.measure) for name, work in works.items()}
    return parts | {
        f"training-memory-kept-{n}thread": replace(
            parts[f"training-{n}thread"], environment=KEEP_MEMORY
        )
        for n in (1, 2)
    }


def merge(done: dict[str, Any]) -> dict[str, Any]:
    """One result from the parts."""
    return {
        "command": "python benchmarks/speed_metric.py",
        "what": (
            "Prototypical networks with four blocks of 64 channels on images"
            " of 28 x 28, all in turn in one process; default OpenMP settings."
            " ms: an episode. speedup: median over rounds of the reference's"
            " time over this one's in the same round; the reference is"
            " easyfsl, of sampling learn2learn. training: forward, backward"
            " and Adam (fused for metabook, as metabook.train makes it;"
            " torch's default for the others). gradient_error: relative to"
            " metabook's with the same distance, in float64 (half precision:"
            " in float32). memory-kept: the same with an allocator that keeps"
            f" large blocks, for everyone: {KEEP_MEMORY}. evaluation: metabook"
            " embeds the test set within the time; fewer episodes are timed"
            " where the time is in proportion to them. sampling: metabook"
            " converts pixels of 8 bits, the peers' data are floats from the"
            " start."
        ),
        "peers": peers_metric.found(),
        "works": done,
    }


def main() -> int:
    package, here = Path(mb.__file__).parent, Path(__file__)
    files = [
        "learner.py",
        "models.py",
        "evaluation.py",
        "embedded.py",
        "counter.py",
        "data/images.py",
    ]
    code = [
        here,
        Path(peers.__file__),
        Path(peers_metric.__file__),
        *(package / file for file in files),
    ]
    code += [
        *sorted(package.glob("metric/*.py")),
        *sorted(package.glob("tasks/*.py")),
    ]
    of = timing.fingerprint(code)
    return timing.run(
        __file__,
        __doc__,
        all_parts,
        of,
        peers_metric.prepare,
        merge,
        "speed_metric",
        "speed_metric",
    )


if __name__ == "__main__":
    sys.exit(main())
