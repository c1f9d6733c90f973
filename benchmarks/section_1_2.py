# SPDX-License-Identifier: MIT
"""Accuracy against examples a class in sections 1.1 and 1.2: from scratch, on
features, and meta-trained; and the bill.

    python benchmarks/section_1_2.py               # about half an hour of one core; run again to resume
    python benchmarks/section_1_2.py summary       # puts the runs into metabook/book/results/section_1_2.json

The classifier and the prototypical network begin as the same random weights;
these two and MAML see equally many images of the same 400 characters, 120 an
iteration. Settings that can be chosen (norm, head, distance, step size, steps)
were chosen on a third alphabet: `python benchmarks/section_1_2.py choose`
prints what they were chosen from.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import metabook as mb
from metabook.book import results

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
RUNS = Path("runs") / "section_1_2"


def classifier(
    images: mb.LabelledImages, iterations: int, seed: int
) -> nn.Module:
    """Ordinary training: one output for each of the characters, which is thrown
    away afterwards.
    """
    torch.manual_seed(seed)
    features = mb.Conv4(width=32)
    net = nn.Sequential(features, nn.Linear(32, len(images.names)))
    optimizer = torch.optim.Adam(
        net.parameters(), lr=PROTOCOL["training"]["lr"], fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    labels = torch.from_numpy(
        np.repeat(np.arange(len(images.names)), images.counts)
    )
    for _ in range(iterations):
        rows = torch.randint(len(images), (PROTOCOL["training"]["images"],))
        optimizer.zero_grad()
        F.cross_entropy(net(images.pixels(rows)), labels[rows]).backward()
        optimizer.step()
        schedule.step()
    return features.eval()


def protonet(
    images: mb.LabelledImages, iterations: int, seed: int
) -> mb.ProtoNet:
    """Meta-training: every iteration is a task of 20 characters, one support
    drawing and five queries of each.
    """
    torch.manual_seed(seed)
    learner = mb.ProtoNet(mb.Conv4(width=32))
    tasks = mb.FewShotTasks(images, way=20, shot=1, query=5, seed=seed)
    mb.train(
        learner,
        tasks,
        iterations,
        1,
        lr=PROTOCOL["training"]["lr"],
        schedule="cosine",
        progress=False,
    )
    return learner


def maml(
    images: mb.LabelledImages, iterations: int, seed: int, **other: Any
) -> mb.MAML:
    """Meta-training: every iteration is four tasks of five characters, one
    support drawing and five queries of each.
    """
    options = PROTOCOL["maml"] | other
    torch.manual_seed(seed)
    learner = mb.MAML(
        mb.Conv4(5, width=32, norm=options["norm"]),
        options["inner_lr"],
        options["inner_steps"],
    )
    tasks = mb.FewShotTasks(images, way=5, shot=1, query=5, seed=seed)
    mb.train(
        learner,
        tasks,
        iterations,
        4,
        lr=PROTOCOL["training"]["lr"],
        schedule="cosine",
        progress=False,
    )
    learner.inner_steps = options["inner_steps_at_test"]
    return learner


def center_of(features: nn.Module, images: mb.LabelledImages) -> torch.Tensor:
    """The mean feature vector of the training images."""
    with torch.no_grad():
        return torch.cat(
            [
                features(images.pixels(r))
                for r in torch.arange(len(images)).split(64)
            ]
        ).mean(dim=0)


def on_features(
    features: nn.Module, images: mb.LabelledImages
) -> dict[str, mb.Learner]:
    """What can be done with features that stay as they are."""
    return {
        "head": mb.FineTuning(features, **PROTOCOL["head"]),
        "neighbour": mb.NearestNeighbour(features, distance="cosine"),
        "centroid": mb.NearestCentroid(
            features, center=center_of(features, images)
        ),
    }


def all_weights(features: nn.Module) -> Callable[[int], mb.FullFineTuning]:
    """The learner for each number of shots."""
    options = PROTOCOL["all_weights"]

    def learner(shot: int) -> mb.FullFineTuning:
        steps = options["steps_from_50_shots" if shot >= 50 else "steps"]
        return mb.FullFineTuning(
            features, steps=steps, lr=options["lr"], batch=options["batch"]
        )

    return learner


def percent(score: mb.Score) -> dict[str, float]:
    return {
        "accuracy": round(100 * score.mean, 2),
        "ci95": round(100 * score.ci95, 2),
    }


def measure(
    learner: mb.Learner,
    images: mb.LabelledImages,
    shots: list[int],
    way: int = 5,
) -> dict[str, dict[str, float]]:
    test = PROTOCOL["test"]
    tasks = {
        str(shot): mb.FewShotTasks(
            images, way, shot, test["query"], seed=test["seed"]
        )
        for shot in shots
    }
    scores = mb.evaluate_embedded(learner, tasks, test["episodes"])
    return {shot: percent(score) for shot, score in scores.items()}


def measure_training(
    learner: Callable[[int], mb.Learner],
    images: mb.LabelledImages,
    shots: list[int],
    seed: int,
) -> dict[str, dict[str, float]]:
    """As `measure`, on fewer tasks, other ones for each seed, since every one
    of them is a training.
    """
    test, scores = PROTOCOL["test"], {}
    for shot in shots:
        tasks = mb.FewShotTasks(
            images, way=5, shot=shot, query=test["query"], seed=test["seed"]
        )
        episodes = test["episodes_all_weights"]
        scores[str(shot)] = percent(
            mb.evaluate(
                learner(shot), tasks, episodes, start=seed * episodes, batch=1
            )
        )
    return scores


def images_until(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    goal: float = 0.9,
) -> int:
    """Train with 32 images a step until this share of the test is right; how
    many images that took.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=0.005)
    for step in range(600):
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
    return 32 * 600


def bill(images: mb.LabelledImages, seed: int) -> dict[str, list[int]]:
    """A chain of five tasks, each from random weights and from the body of the
    task before.
    """
    seen: dict[str, list[int]] = {"from zero": [], "carrying over": []}
    order, body = np.random.default_rng(seed).permutation(100), None
    for k in range(5):
        rows = torch.from_numpy(images.offsets[order[20 * k : 20 * k + 20]])[
            :, None
        ] + torch.arange(60)
        y = torch.arange(20)[:, None].expand(-1, 60)
        parts = [
            part
            for r in (slice(40), slice(40, 60))
            for part in (images.pixels(rows[:, r].flatten()), y[:, r].flatten())
        ]
        for name in seen:
            torch.manual_seed(10 * seed + k)
            network = nn.Sequential(mb.Conv4(width=32), nn.Linear(32, 20))
            if name == "carrying over" and body is not None:
                network[0] = body
            seen[name].append(images_until(network, *parts))
        body = network[0]
    return seen


def jobs() -> list[tuple[str, int]]:
    seeds = range(PROTOCOL["seeds"])
    return [
        (what, seed)
        for what in (
            "short",
            "scratch",
            "bill",
            "long",
            "short_all_weights",
            "twenty_way",
            "short_maml",
        )
        for seed in seeds
    ]


def run(
    what: str, seed: int, data: dict[str, mb.LabelledImages]
) -> dict[str, object]:
    """One committed run: a training with all that is done on its features, or
    every weight trained for every task.
    """
    shots = PROTOCOL["test"]["shots"]
    if what == "scratch":
        torch.manual_seed(seed)
        nets = {
            "scratch": mb.Conv4(width=32),
            "scratch_perceptron": mb.MLP(784, 64, hidden=(128,)),
        }
        return {
            f"{name}_{images}": measure_training(
                all_weights(net), data[images], shots, seed
            )
            for name, net in nets.items()
            for images in ("test", "digits")
        }
    if what == "bill":
        return dict(bill(data["test"], seed))
    if what == "twenty_way":
        lengths = PROTOCOL["training"]["iterations"]
        return {
            n: measure(
                protonet(data["train"], lengths[n], seed),
                data["test"],
                shots[:5],
                way=20,
            )
            for n in lengths
        }
    length = what.split("_")[0]
    iterations = PROTOCOL["training"]["iterations"][length]
    if what.endswith("maml"):
        learner = maml(data["train"], iterations, seed)
        return {
            f"maml_{name}": measure_training(
                lambda _: learner, data[name], shots[:5], seed
            )
            for name in ("test", "digits")
        }
    file = RUNS / f"{length}_classifier_seed{seed}.pt"
    features = (
        classifier(data["train"], iterations, seed)
        if not file.exists()
        else mb.Conv4(width=32)
    )
    if file.exists():
        features.load_state_dict(torch.load(file))
    else:
        torch.save(features.state_dict(), file)
    if what.endswith("all_weights"):
        return {
            f"all_weights_{name}": measure_training(
                all_weights(features), data[name], shots, seed
            )
            for name in ("test", "digits")
        }
    learners = on_features(features, data["train"]) | {
        "protonet": protonet(data["train"], iterations, seed)
    }
    if what == "short" and seed == 0:
        learners["pixels"] = mb.NearestNeighbour()
    return {
        f"{name}_{images}": measure(learner, data[images], shots)
        for name, learner in learners.items()
        for images in ("test", "digits")
    }


def choose() -> None:
    """Print what the settings of the baselines were chosen from, on an alphabet
    that is neither trained nor tested on.
    """
    train, valid = (
        mb.glyphs(classes=400, seed=0),
        mb.glyphs(classes=100, examples=40, seed=2),
    )
    features = classifier(train, 150, seed=0)
    center = center_of(features, train)
    options: dict[str, mb.Learner] = {}
    for head in ("linear", "cosine"):
        for lr in (0.01, 0.1):
            options[f"head {head}, lr {lr}"] = mb.FineTuning(
                features, head=head, lr=lr
            )
    for distance in ("squared_euclidean", "cosine"):
        options[f"neighbour {distance}"] = mb.NearestNeighbour(
            features, distance=distance
        )
    options["centroid"] = mb.NearestCentroid(features, normalize=False)
    options["centroid, normalised"] = mb.NearestCentroid(features)
    options["centroid, centred and normalised"] = mb.NearestCentroid(
        features, center=center
    )
    options["protonet"] = protonet(train, 150, seed=0)
    for name, learner in options.items():
        tasks = {
            shot: mb.FewShotTasks(valid, way=5, shot=shot, query=15, seed=1)
            for shot in (1, 5, 20)
        }
        scores = mb.evaluate_embedded(learner, tasks, episodes=200)
        print(
            f"{name:35}",
            *(
                f"{100 * s.mean:.1f} ± {100 * s.ci95:.1f}  "
                for s in scores.values()
            ),
            flush=True,
        )
    torch.manual_seed(0)
    random = {
        norm: mb.Conv4(width=32, norm=norm) for norm in ("batch", "group")
    }
    for name, net, steps, lr in (
        *(
            (f"scratch, {norm}", net, 60, lr)
            for norm, net in random.items()
            for lr in (0.001, 0.003, 0.01)
        ),
        ("scratch, group, 150 steps", random["group"], 150, 0.003),
        *(
            ("all weights of the classifier", features, 60, lr)
            for lr in (0.001, 0.003, 0.01)
        ),
    ):
        scores = []
        for shot in (1, 5, 20):
            tasks = mb.FewShotTasks(valid, way=5, shot=shot, query=15, seed=1)
            scores.append(
                mb.evaluate(
                    mb.FullFineTuning(net, steps, lr), tasks, episodes=12
                )
            )
        print(
            f"{name:35}",
            lr,
            *(f"{100 * s.mean:.1f} ± {100 * s.ci95:.1f}  " for s in scores),
            flush=True,
        )
    for norm, lr, steps in (
        ("group", 0.1, 1),
        ("support", 0.1, 1),
        ("support", 0.4, 1),
        ("support", 0.1, 5),
    ):
        learner = maml(
            train, 150, seed=0, norm=norm, inner_lr=lr, inner_steps=steps
        )
        for learner.inner_steps in (steps, 10):
            scores = []
            for shot in (1, 5, 20):
                tasks = mb.FewShotTasks(
                    valid, way=5, shot=shot, query=15, seed=1
                )
                scores.append(mb.evaluate(learner, tasks, episodes=24))
            print(
                f"maml, {norm}, lr {lr}, {steps} steps, {learner.inner_steps}"
                " at test:",
                *scores,
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what", nargs="?", choices=["all", "choose", "summary"], default="all"
    )
    what = parser.parse_args().what
    torch.set_num_threads(1)
    if what == "choose":
        choose()
        return
    if what == "summary":
        runs: dict[str, list[object]] = {}
        for name, seed in jobs():
            file = RUNS / f"{name}_seed{seed}.json"
            if file.exists():
                runs.setdefault(name, []).append(
                    json.loads(file.read_text("utf8"))
                )
        path = results.save(
            "section_1_2",
            {"command": "python benchmarks/section_1_2.py"}
            | PROTOCOL
            | {"runs": runs},
        )
        print(f"written: {path}")
        return
    data = {
        "train": mb.glyphs(classes=400, seed=0),
        "test": mb.glyphs(classes=100, examples=115, seed=1),
        "digits": mb.digits(),
    }
    RUNS.mkdir(parents=True, exist_ok=True)
    for name, seed in jobs():
        file = RUNS / f"{name}_seed{seed}.json"
        if file.exists():
            continue
        start = time.process_time()
        result = {"seed": seed} | run(name, seed, data)
        result["seconds"] = round(time.process_time() - start, 1)
        file.write_text(json.dumps(result), "utf8")
        print(name, seed, result, flush=True)


if __name__ == "__main__":
    main()
