# SPDX-License-Identifier: MIT
"""The first runs on Omniglot, 5-way 1-shot, on training classes alone; since then `metabook reproduce` has come.

    python benchmarks/omniglot.py protonet     # ten minutes on two cores
    python benchmarks/omniglot.py maml         # half an hour on two cores

Run the same line again to resume. The result goes to metabook/results/ as JSON.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

import metabook as mb
from metabook import results
from metabook.reproduce import keep_freed_memory


@dataclass(frozen=True)
class Experiment:
    """What differs between the two methods."""

    way: int  # classes of a training task
    query: int  # queries a class of a training task
    tasks_per_batch: int
    iterations: int
    test_query: int  # queries a class of a test task, as in the paper's code
    test_steps: int | None  # inner steps at test
    resize: str  # how the drawings of 105 x 105 pixels are made small
    paper: dict[str, str | float]
    differences: str


EXPERIMENTS = {
    "protonet": Experiment(
        way=60,
        query=5,
        tasks_per_batch=1,
        iterations=4500,
        test_query=15,
        test_steps=None,
        resize="nearest",
        paper={"accuracy": 98.8, "source": "Snell et al. 2017, Table 1, https://arxiv.org/abs/1703.05175"},
        differences="The paper halves the step size every 2,000 episodes, stops early and trains again on training "
        "and validation classes; here the step size falls along a cosine to zero, on the training classes alone.",
    ),
    "maml": Experiment(
        way=5,
        query=5,
        tasks_per_batch=16,
        iterations=8000,
        test_query=1,
        test_steps=3,
        resize="lanczos",
        paper={"accuracy": 98.7, "ci95": 0.4, "source": "Finn et al. 2017, Table 1, https://arxiv.org/abs/1703.03400"},
        differences="The paper trains for 60,000 iterations of 32 tasks with one query a class, on a random split of "
        "1,200 and 423 characters that are turned at random, shrunk by dropping pixels; here 8,000 iterations of 16 "
        "tasks with five queries a class and a cosine schedule, on the split of Vinyals et al., where each rotation "
        "is a class of its own, shrunk with a smoothing filter.",
    ),
}


def learner_for(method: str, threads: int) -> mb.Learner:
    if method == "protonet":
        return mb.ProtoNet(mb.Conv4())
    model = mb.Conv4(out=5, norm="batch_stats", strided=True)
    return mb.MAML(model, inner_lr=0.4, inner_steps=1, threads=threads)


def measure(learner: mb.Learner, images: mb.LabelledImages, query: int, episodes: int) -> dict[str, float | int]:
    score = mb.evaluate(learner, mb.FewShotTasks(images, way=5, shot=1, query=query, seed=1), episodes, progress=True)
    print(f"{len(images.names)} test classes, {query} queries a class: {score}", flush=True)
    return {"accuracy": round(100 * score.mean, 2), "ci95": round(100 * score.ci95, 2), "episodes": score.n}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=EXPERIMENTS)
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights and of the training tasks")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--iterations", type=int, help="fewer, to try the command")
    parser.add_argument("--episodes", type=int, default=1000, help="test episodes")
    args = parser.parse_args()
    todo = EXPERIMENTS[args.method]
    iterations = args.iterations or todo.iterations

    keep_freed_memory()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    train, valid, test = mb.omniglot(resize=todo.resize).split()
    upright = test.subset([c for c, name in enumerate(test.names) if name.endswith("rot000")])
    learner = learner_for(args.method, args.threads)
    history = mb.train(
        learner,
        mb.FewShotTasks(train, todo.way, shot=1, query=todo.query, seed=args.seed),
        iterations=iterations,
        tasks_per_batch=todo.tasks_per_batch,
        schedule="cosine",
        valid=mb.FewShotTasks(valid, way=5, shot=1, query=todo.test_query, seed=2),
        valid_every=iterations // 10,
        checkpoint=Path("runs") / f"omniglot_{args.method}_{iterations}_{todo.resize}_{args.seed}",
    )
    if isinstance(learner, mb.MAML) and todo.test_steps:
        learner.inner_steps = todo.test_steps
    result = {
        "command": f"python benchmarks/omniglot.py {args.method} --seed {args.seed} --threads {args.threads}",
        "task": "Omniglot, 5-way 1-shot, test classes of Vinyals et al.",
        "network": str("Conv4, 64 channels, " + ("max-pooling" if args.method == "protonet" else "strided")),
        "transductive": learner.transductive,
        "training": {
            "way": todo.way,
            "shot": 1,
            "query": todo.query,
            "tasks_per_batch": todo.tasks_per_batch,
            "iterations": iterations,
            "best_iteration": history.best_iteration,
            "minutes": round(history.seconds / 60, 1),
            "seed": args.seed,
        },
        "resize": todo.resize,
        "inner_steps_at_test": todo.test_steps,
        "queries_at_test": todo.test_query,
        "rotated": measure(learner, test, todo.test_query, args.episodes),
        "upright": measure(learner, upright, todo.test_query, args.episodes),
        "rotated_15_queries": measure(learner, test, 15, args.episodes),
        "paper": todo.paper,
        "differences": todo.differences,
        "validation": [[i, round(100 * mean, 2)] for i, mean, _ in history.validations],
    }
    print(f"trained for {history.seconds / 60:.1f} minutes")
    if args.iterations is None:
        name = f"omniglot_{args.method}_5way_1shot" + (f"_seed{args.seed}" if args.seed else "")
        print(f"written: {results.save(name, result)}")


if __name__ == "__main__":
    main()
