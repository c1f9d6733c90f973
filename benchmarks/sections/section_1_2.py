# SPDX-License-Identifier: MIT
"""Accuracy against examples a class in sections 1.1 and 1.2: from scratch, on
features, and meta-trained; and the bill.

    python benchmarks/sections/section_1_2.py

About half an hour of one core; run the same line again to resume. The
classifier and the prototypical network begin as the same random weights; these
two and MAML see equally many images of the same 400 characters, 120 an
iteration. What the settings were chosen from is printed by
section_1_2_choices.py. The result goes to
metabook/book/results/section_1_2.json.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from section_1_2_bill import bill
from section_1_2_learners import (
    Settings,
    all_weights,
    classifier,
    maml,
    on_features,
    protonet,
)
from torch import nn

import metabook as mb

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
import command
from cache import Cache
from measures import embedded, percent, timed

PROTOCOL = {
    "task": (
        "5-way unless said; 400 procedural characters to train on (glyphs, seed"
        " 0), 100 others to test on (seed 1)"
    ),
    "network": "Conv4, 32 channels, batch norm",
    "training": {
        "iterations": {"short": 150, "long": 600},
        "images": 120,
        "lr": 0.003,
        "schedule": "cosine",
    },
    "head": {"head": "cosine", "steps": 100, "lr": 0.1},
    "all_weights": {
        "steps": 60,
        "steps_from_50_shots": 150,
        "lr": 0.003,
        "batch": 32,
    },
    "maml": {
        "norm": "support",
        "inner_lr": 0.1,
        "inner_steps": 5,
        "inner_steps_at_test": 10,
    },
    "test": {
        "query": 15,
        "seed": 1,
        "shots": [1, 2, 5, 10, 20, 50, 100],
        "episodes": 600,
        "episodes_all_weights": 16,
    },
    "digits": (
        "scikit-learn's digits (metabook.digits), the same networks, 5-way"
    ),
    "bill": (
        "images until 90 % of new drawings are right: five tasks of 20 test"
        " characters, 40 drawings to learn from"
    ),
    "seeds": 3,
}
TINY = {
    "training": {"iterations": {"short": 1, "long": 2}},
    "head": {"steps": 1},
    "all_weights": {"steps": 1, "steps_from_50_shots": 1},
    "maml": {"inner_steps": 1, "inner_steps_at_test": 1},
    "test": {
        "shots": [1, 2],
        "query": 5,
        "episodes": 4,
        "episodes_all_weights": 2,
    },
    "seeds": 1,
}

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Experiment:
    """The parts of a run from one seed."""

    protocol: Settings
    train: mb.LabelledImages
    tests: dict[str, mb.LabelledImages]  # by name
    most_steps: int  # of a training on the bill

    def on_features(self, seed: int, length: str) -> Numbers:
        """A classifier and what is done with its features, and a prototypical
        network.
        """
        learners = on_features(
            self.classifier(seed, length), self.train, self.protocol["head"]
        )
        learners["protonet"] = self.protonet(seed, length)
        if length == "short" and seed == 0:
            learners["pixels"] = mb.NearestNeighbour()
        return {
            f"{name}_{images}": self.accuracies(learner, images)
            for name, learner in learners.items()
            for images in self.tests
        }

    def scratch(self, seed: int) -> Numbers:
        """Random weights, all of them trained for every task."""
        torch.manual_seed(seed)
        nets = {
            "scratch": mb.Conv4(width=32),
            "scratch_perceptron": mb.MLP(784, 64, hidden=(128,)),
        }
        found = {}
        for name, net in nets.items():
            learner = all_weights(net, self.protocol["all_weights"])
            found |= self.of_trainings(name, learner, seed)
        return found

    def all_weights(self, seed: int) -> Numbers:
        """The classifier, all its weights trained for every task."""
        learner = all_weights(
            self.classifier(seed, "short"), self.protocol["all_weights"]
        )
        return self.of_trainings("all_weights", learner, seed)

    def maml(self, seed: int) -> Numbers:
        """With as many images as the classifier."""
        training = self.protocol["training"]
        learner = maml(
            self.train,
            training["iterations"]["short"],
            seed,
            training["lr"],
            self.protocol["maml"],
        )
        return self.of_trainings("maml", lambda _: learner, seed, shots=5)

    def twenty_way(self, seed: int) -> Numbers:
        """Prototypical networks of both lengths."""
        return {
            length: self.accuracies(
                self.protonet(seed, length), "test", way=20, shots=5
            )
            for length in self.protocol["training"]["iterations"]
        }

    def bill(self, seed: int) -> Numbers:
        """Images seen."""
        return bill(self.tests["test"], seed, self.most_steps)

    def classifier(self, seed: int, length: str) -> nn.Module:
        """Its features."""
        training = self.protocol["training"]
        return classifier(
            self.train,
            training["iterations"][length],
            seed,
            training["images"],
            training["lr"],
        )

    def protonet(self, seed: int, length: str) -> mb.ProtoNet:
        """Meta-trained."""
        training = self.protocol["training"]
        return protonet(
            self.train, training["iterations"][length], seed, training["lr"]
        )

    def accuracies(
        self,
        learner: mb.Learner,
        images: str,
        way: int = 5,
        shots: int | None = None,
    ) -> Numbers:
        """At the first so many numbers of shots, with every image embedded
        once.
        """
        test = self.protocol["test"]
        scores = embedded(
            learner, self.tests[images], way, test["shots"][:shots], test
        )
        return {shot: percent(score) for shot, score in scores.items()}

    def of_trainings(
        self,
        name: str,
        learner: Callable[[int], mb.Learner],
        seed: int,
        shots: int | None = None,
    ) -> Numbers:
        """As `accuracies`, on fewer tasks, other ones for each seed, since
        every one of them is a training.
        """
        test = self.protocol["test"]
        episodes = test["episodes_all_weights"]

        def accuracy(images: mb.LabelledImages, shot: int) -> Numbers:
            tasks = mb.FewShotTasks(
                images, way=5, shot=shot, query=test["query"], seed=test["seed"]
            )
            return percent(
                mb.evaluate(
                    learner(shot),
                    tasks,
                    episodes=episodes,
                    start=seed * episodes,
                    batch=1,
                )
            )

        return {
            f"{name}_{images}": {
                str(shot): accuracy(self.tests[images], shot)
                for shot in test["shots"][:shots]
            }
            for images in self.tests
        }


PARTS: dict[str, Callable[[Experiment, int], Numbers]] = {
    "short": lambda of, seed: of.on_features(seed, "short"),
    "scratch": Experiment.scratch,
    "bill": Experiment.bill,
    "long": lambda of, seed: of.on_features(seed, "long"),
    "short_all_weights": Experiment.all_weights,
    "twenty_way": Experiment.twenty_way,
    "short_maml": Experiment.maml,
}


def measure(protocol: Settings, cache: Cache, quick: bool) -> Numbers:
    """Every part from every seed."""
    if quick:
        few = mb.glyphs(classes=20, examples=10, seed=0)
        test = mb.glyphs(classes=20, examples=60, seed=1)
        experiment = Experiment(
            protocol, few, {"test": test, "digits": few}, most_steps=1
        )
    else:
        experiment = Experiment(
            protocol,
            train=mb.glyphs(classes=400, seed=0),
            tests={
                "test": mb.glyphs(classes=100, examples=115, seed=1),
                "digits": mb.digits(),
            },
            most_steps=600,
        )

    def run(part: str, seed: int) -> Numbers:
        return {"seed": seed, **timed(PARTS[part], experiment, seed)}

    return {
        "runs": {
            part: [
                cache(f"{part}_seed{seed}", run, part, seed)
                for seed in range(protocol["seeds"])
            ]
            for part in PARTS
        }
    }


if __name__ == "__main__":
    command.run(__file__, __doc__, PROTOCOL, TINY, measure)
