# SPDX-License-Identifier: MIT
"""Metric learners of section 3.3 over several seeds: train ways, relatives, shots, and a data set of another kind.

    python benchmarks/section_3_3.py               # fifteen to twenty minutes of one core; run again to resume
    python benchmarks/section_3_3.py summary       # puts the runs into metabook/results/section_3_3.json

Every learner sees 120 images an iteration: 20 classes of six drawings, in one task or in several smaller ones. The
short runs are those that the notebook repeats live with seed 0; the long ones train four times as long.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

import metabook as mb
from metabook import results


def network(norm: str = "batch") -> nn.Module:
    return mb.Conv4(width=32, norm=norm)


def relation(**options: object) -> mb.Learner:
    return mb.RelationNet(network(), features=32, **options)


# name: learner, way, shot and tasks an iteration; way x tasks x (shot + query) = 120 images
LEARNERS = {
    "proto_2way": (lambda: mb.ProtoNet(network()), 2, 1, 10),
    "proto_5way": (lambda: mb.ProtoNet(network()), 5, 1, 4),
    "proto_10way": (lambda: mb.ProtoNet(network()), 10, 1, 2),
    "proto_20way": (lambda: mb.ProtoNet(network()), 20, 1, 1),
    "matching": (lambda: mb.MatchingNet(network()), 20, 1, 1),
    "relation": (lambda: relation(loss_fn=F.cross_entropy), 20, 1, 1),
    "relation_squared_error": (relation, 20, 1, 1),
    "proto_20way_5shot": (lambda: mb.ProtoNet(network()), 20, 5, 1),
    "group_norm_2way": (lambda: mb.ProtoNet(network("group")), 2, 1, 10),
    "group_norm_20way": (lambda: mb.ProtoNet(network("group")), 20, 1, 1),
}
LONG = ("proto_2way", "proto_5way", "proto_20way", "matching", "relation")
PROTOCOL = {
    "task": "procedural characters: 400 to train on (glyphs, seed 0), 100 others to test on (seed 1)",
    "network": "Conv4, 32 channels, batch norm unless said: 32 features",
    "training": {"iterations": {"short": 150, "long": 600}, "images": 120, "lr": 0.003, "schedule": "cosine"},
    "test": {"episodes": 600, "query": 10, "seed": 1, "ways": [5, 20], "shots": [1, 2, 5, 10, 20]},
    "digits": "the same learners on scikit-learn's digits, 8 x 8, resized to 28 x 28 by bilinear interpolation; 5-way, 1 and 5 shots",
    "seeds": {"short": 5, "long": 3},
}
RUNS = Path("runs") / "section_3_3"


def digits() -> mb.LabelledImages:
    """scikit-learn's digits as a data set of 28 x 28 images."""
    data = load_digits()
    small = (data.images * 255 / 16).astype(np.uint8)
    images = [np.asarray(Image.fromarray(i).resize((28, 28), Image.Resampling.BILINEAR)) for i in small]
    return mb.LabelledImages(np.stack(images), data.target)


class Embedded:
    """Tasks whose images are replaced by their features, computed once: nothing changes where images are embedded alone.

    With ``averaged`` the support set of a class is its prototype, as though it were one example.
    """

    def __init__(self, tasks: mb.FewShotTasks, features: Tensor, averaged: bool = False) -> None:
        self.tasks, self.features, self.averaged = tasks, features, averaged

    def sample(self, tasks: int, start: int = 0) -> mb.Episode:
        """Tasks ``start`` to ``start + tasks - 1``, as episodes of features."""
        t = self.tasks
        z = self.features[torch.from_numpy(t.indices(tasks, start))]  # (tasks, way, shot + query, D)
        if self.averaged:
            z = torch.cat([z[:, :, : t.shot].mean(dim=2, keepdim=True), z[:, :, t.shot :]], dim=2)
        shot = 1 if self.averaged else t.shot
        y = torch.arange(t.way)[None, :, None].expand(z.shape[:3])
        return mb.Episode(*(a[:, :, p].flatten(1, 2) for p in (slice(shot), slice(shot, None)) for a in (z, y)))


def embed(network: nn.Module, images: mb.LabelledImages) -> Tensor:
    network.eval()
    with torch.no_grad():
        return torch.cat([network(x) for x in images.pixels(torch.arange(len(images))).split(64)])


def run(name: str, length: str, seed: int, data: dict[str, mb.LabelledImages]) -> dict[str, object]:
    """Train one learner and measure it on tasks of every way and shot."""
    make, way, shot, tasks = LEARNERS[name]
    training, test = PROTOCOL["training"], PROTOCOL["test"]
    torch.manual_seed(seed)
    learner = make()
    mb.train(
        learner,
        mb.FewShotTasks(data["train"], way=way, shot=shot, query=6 - shot, seed=seed),
        training["iterations"][length],
        tasks,
        lr=training["lr"],
        schedule=training["schedule"],
    )
    network, learner.embedding = learner.embedding, nn.Flatten()
    result: dict[str, object] = {"seed": seed}
    for where, ways, shots in (("test", test["ways"], test["shots"]), ("digits", [5], [1, 5])):
        features = embed(network, data[where])
        for n in ways:
            sources = [mb.FewShotTasks(data[where], n, k, test["query"], test["seed"]) for k in shots]
            scores = [mb.evaluate(learner, Embedded(t, features), test["episodes"], batch=50) for t in sources]
            key = where if where == "digits" else f"{n}way"
            result[key] = [round(100 * s.mean, 2) for s in scores]
            result[f"{key}_ci95"] = [round(100 * s.ci95, 2) for s in scores]
            if isinstance(learner, mb.RelationNet):  # trained with one example a class, and it adds examples up
                means = [mb.evaluate(learner, Embedded(t, features, True), test["episodes"], batch=50) for t in sources]
                result[f"{key}_averaged"] = [round(100 * s.mean, 2) for s in means]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["all", "summary"], default="all")
    if parser.parse_args().what == "summary":
        runs: dict[str, dict[str, list[object]]] = {"short": {}, "long": {}}
        for length in runs:
            for name in LEARNERS:
                files = sorted(RUNS.glob(f"{length}_{name}_seed*.json"))
                if files:
                    runs[length][name] = [json.loads(file.read_text("utf8")) for file in files]
        print(
            f"written: {results.save('section_3_3', {'command': 'python benchmarks/section_3_3.py'} | PROTOCOL | {'runs': runs})}"
        )
        return
    torch.set_num_threads(1)
    data = {"train": mb.glyphs(classes=400, seed=0), "test": mb.glyphs(classes=100, examples=60, seed=1)}
    data["digits"] = digits()
    RUNS.mkdir(parents=True, exist_ok=True)
    jobs = [("short", name, seed) for seed in range(PROTOCOL["seeds"]["short"]) for name in LEARNERS]
    jobs += [("long", name, seed) for seed in range(PROTOCOL["seeds"]["long"]) for name in LONG]
    for length, name, seed in jobs:
        file = RUNS / f"{length}_{name}_seed{seed}.json"
        if file.exists():
            continue
        start = time.process_time()
        result = run(name, length, seed, data)
        result["seconds"] = round(time.process_time() - start, 1)
        file.write_text(json.dumps(result), "utf8")
        print(length, name, result, flush=True)


if __name__ == "__main__":
    main()
