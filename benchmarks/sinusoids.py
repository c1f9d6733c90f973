# SPDX-License-Identifier: MIT
"""Meta-train on sine waves, 70,000 iterations of 25 tasks, and measure the
query error after 0 to 10 inner steps.

    python benchmarks/sinusoids.py maml              # two to five minutes on one core, half of that with --compiled
    python benchmarks/sinusoids.py fomaml
    python benchmarks/sinusoids.py meta_sgd
    python benchmarks/sinusoids.py joint
    python benchmarks/sinusoids.py summary           # puts the runs of all seeds into metabook/book/results/sinusoids.json

Run the same line again to resume. The network and the waves are those of the
MAML paper, section 5.1.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F

import metabook as mb
from metabook.book import results

METHODS = {
    "maml": lambda **options: mb.MAML(mb.MLP(1, 1), **options),
    "fomaml": lambda **options: mb.MAML(
        mb.MLP(1, 1), first_order=True, **options
    ),
    "meta_sgd": lambda **options: mb.MetaSGD(mb.MLP(1, 1), **options),
    "joint": lambda **options: mb.JointTraining(mb.MLP(1, 1), **options),
}
PROTOCOL = {
    "task": (
        "sine waves, amplitude 0.1 to 5, phase 0 to pi, inputs -5 to 5;"
        " 10-shot; network 1-40-40-1"
    ),
    "training": {
        "iterations": 70_000,
        "tasks_per_batch": 25,
        "query": 10,
        "lr": 1e-3,
        "inner_lr": 0.01,
        "inner_steps": 1,
    },
    "test": {
        "episodes": 600,
        "query": 100,
        "seed": 1_000_001,
        "steps": {"maml": 10, "fomaml": 10, "joint": 10, "meta_sgd": 1},
    },
    "note": (
        "Meta-SGD learns its step sizes for one step; a few more of the same"
        " diverge."
    ),
    "published": {
        "maml": 0.6702,
        "meta_sgd": 0.3145,
        "source": (
            "10-shot loss in a public reimplementation,"
            " https://github.com/63days/Meta-SGD, without interval"
        ),
    },
}
RUNS = Path("runs")


def run(
    method: str, seed: int, compiled: bool, iterations: int
) -> dict[str, object]:
    """Train one learner and measure it after every inner step."""
    training, test = PROTOCOL["training"], PROTOCOL["test"]
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # the matrices are small
    learner = METHODS[method](
        inner_lr=training["inner_lr"],
        inner_steps=training["inner_steps"],
        loss_fn=F.mse_loss,
        compiled=compiled,
    )
    history = mb.train(
        learner,
        mb.Sinusoids(shot=10, query=training["query"], seed=seed),
        iterations,
        training["tasks_per_batch"],
        lr=training["lr"],
        checkpoint=RUNS / f"sinusoids_{method}_{iterations}_{seed}",
        checkpoint_every=5000,
    )
    waves = mb.Sinusoids(shot=10, query=test["query"], seed=test["seed"])
    scores = mb.evaluate_steps(
        learner, waves, test["steps"][method], test["episodes"], batch=100
    )
    for step, score in enumerate(scores):
        print(f"{method}, seed {seed}, after {step} steps: {score}", flush=True)
    return {
        "seed": seed,
        "minutes": round(history.seconds / 60, 1),
        "compiled": compiled,
        "mse": [round(s.mean, 4) for s in scores],
        "ci95": [round(s.ci95, 4) for s in scores],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("method", choices=[*METHODS, "summary"])
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the initial weights and of the training tasks",
    )
    parser.add_argument(
        "--compiled",
        action="store_true",
        help="compile the outer gradient (needs a C++ compiler)",
    )
    parser.add_argument(
        "--iterations", type=int, default=PROTOCOL["training"]["iterations"]
    )
    args = parser.parse_args()
    if args.method == "summary":
        runs = {
            m: [
                json.loads(p.read_text())
                for p in sorted(RUNS.glob(f"sinusoids_{m}_seed*.json"))
            ]
            for m in METHODS
        }
        print(
            "written:"
            f" {results.save('sinusoids', {'command': 'python benchmarks/sinusoids.py METHOD --seed SEED --compiled'} | PROTOCOL | {'runs': runs})}"
        )
        return
    result = run(args.method, args.seed, args.compiled, args.iterations)
    if args.iterations == PROTOCOL["training"]["iterations"]:
        (RUNS / f"sinusoids_{args.method}_seed{args.seed}.json").write_text(
            json.dumps(result)
        )


if __name__ == "__main__":
    main()
