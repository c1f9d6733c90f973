# SPDX-License-Identifier: MIT
"""What the settings of sections 1.1 and 1.2 were chosen from, on an alphabet
that is neither trained nor tested on.

    python benchmarks/sections/section_1_2_choices.py

Prints a line for each choice, accuracy in percent with 1, 5 and 20 examples a
class; nothing is written. The choices are settings of section_1_2.py.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from section_1_2 import PROTOCOL
from section_1_2_learners import center_of, classifier, maml, protonet
from torch import nn

import metabook as mb

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
import command
from measures import embedded

TRAINING = PROTOCOL["training"]


@dataclass(frozen=True)
class Choices:
    """The characters, and how long everything goes on."""

    train: mb.LabelledImages
    valid: mb.LabelledImages
    iterations: int = TRAINING["iterations"]["short"]
    shots: Sequence[int] = (1, 5, 20)
    longest: int = 150  # steps of a training of all weights
    episodes: int = 200
    episodes_all_weights: int = 12
    episodes_maml: int = 24

    def on_features(self) -> None:
        """Head and distance of what works on features that stay."""
        features = self.classifier()
        learners: dict[str, mb.Learner] = {
            f"head {head}, lr {lr}": mb.FineTuning(features, head=head, lr=lr)
            for head in ("linear", "cosine")
            for lr in (0.01, 0.1)
        }
        learners |= {
            f"neighbour {distance}": mb.NearestNeighbour(
                features, distance=distance
            )
            for distance in ("squared_euclidean", "cosine")
        }
        learners |= {
            "centroid": mb.NearestCentroid(features, normalize=False),
            "centroid, normalized": mb.NearestCentroid(features),
            "centroid, centred and normalized": mb.NearestCentroid(
                features, center=center_of(features, self.train)
            ),
            "protonet": protonet(
                self.train, self.iterations, 0, TRAINING["lr"]
            ),
        }
        test = {"query": 15, "episodes": self.episodes, "seed": 1}
        for name, learner in learners.items():
            scores = embedded(learner, self.valid, 5, self.shots, test)
            show(name, scores.values())

    def all_weights(self) -> None:
        """Norm and step size where every weight is trained for every task."""
        features = self.classifier()
        torch.manual_seed(0)
        batch, group = (
            mb.Conv4(width=32, norm=norm) for norm in ("batch", "group")
        )
        lrs = (0.001, 0.003, 0.01)
        choices = [("scratch, batch", batch, 60, lr) for lr in lrs]
        choices += [("scratch, group", group, 60, lr) for lr in lrs]
        choices += [("scratch, group", group, 150, 0.003)]
        choices += [("all weights", features, 60, lr) for lr in lrs]
        for name, net, steps, lr in choices:
            learner = mb.FullFineTuning(
                net, steps=min(steps, self.longest), lr=lr
            )
            scores = self.one_by_one(learner, self.episodes_all_weights)
            show(f"{name}, {steps} steps, lr {lr}", scores)

    def maml(self) -> None:
        """Norm, step size and steps."""
        for norm, inner_lr, steps in (
            ("group", 0.1, 1),
            ("support", 0.1, 1),
            ("support", 0.4, 1),
            ("support", 0.1, 5),
        ):
            options = {
                "norm": norm,
                "inner_lr": inner_lr,
                "inner_steps": steps,
                "inner_steps_at_test": steps,
            }
            learner = maml(
                self.train, self.iterations, 0, TRAINING["lr"], options
            )
            for learner.inner_steps in (steps, 10):
                show(
                    f"maml, {norm}, lr {inner_lr}, {steps} steps,"
                    f" {learner.inner_steps} at test",
                    self.one_by_one(learner, self.episodes_maml),
                )

    def classifier(self) -> nn.Module:
        """Its features."""
        return classifier(
            self.train, self.iterations, 0, TRAINING["images"], TRAINING["lr"]
        )

    def one_by_one(
        self, learner: mb.Learner, episodes: int
    ) -> Iterable[mb.Score]:
        """At each number of shots, episode by episode."""
        for shot in self.shots:
            tasks = mb.FewShotTasks(
                self.valid, way=5, shot=shot, query=15, seed=1
            )
            yield mb.evaluate(learner, tasks, episodes=episodes)


def show(name: str, scores: Iterable[mb.Score]) -> None:
    numbers = [f"{100 * s.mean:.1f} ± {100 * s.ci95:.1f}" for s in scores]
    print(f"{name:45}", *numbers, sep="  ", flush=True)


def main() -> None:
    quick = command.parser(__doc__).parse_args().quick
    torch.set_num_threads(1)
    if quick:
        choices = Choices(
            train=mb.glyphs(classes=20, seed=0),
            valid=mb.glyphs(classes=5, examples=20, seed=2),
            iterations=1,
            shots=(1,),
            longest=1,
            episodes=2,
            episodes_all_weights=2,
            episodes_maml=2,
        )
    else:
        choices = Choices(
            train=mb.glyphs(classes=400, seed=0),
            valid=mb.glyphs(classes=100, examples=40, seed=2),
        )
    choices.on_features()
    choices.all_weights()
    choices.maml()


if __name__ == "__main__":
    main()
