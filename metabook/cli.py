# SPDX-License-Identifier: MIT
"""The command ``metabook``.

So far ``metabook reproduce``, which lists and runs the experiments of the
papers.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="metabook", description="The package under Learning to Learn."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    reproduce = commands.add_parser(
        "reproduce",
        help="list or run the experiments of the papers",
        description=(
            "Without a name, list the experiments. The same line again goes on"
            " where it was stopped."
        ),
    )
    reproduce.add_argument("name", nargs="?")
    reproduce.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the initial weights and the training tasks",
    )
    reproduce.add_argument(
        "--threads", type=int, help="cores to use; all unless given"
    )
    reproduce.add_argument(
        "--iterations", type=int, help="fewer, to try the command"
    )
    reproduce.add_argument(
        "--episodes",
        type=int,
        default=1000,
        help="test episodes (default: 1000, as in the papers)",
    )
    reproduce.add_argument(
        "--runs", default="runs", help="folder of checkpoints (default: runs)"
    )
    reproduce.add_argument(
        "--out",
        help=(
            "the result's JSON file (default: NAME-seedSEED.json in the folder"
            " of runs)"
        ),
    )
    args = parser.parse_args(arguments)
    try:
        return _run(args) if args.name else _list()
    except ValueError as error:
        print(f"metabook reproduce: {error}", file=sys.stderr)
        return 2


def _list() -> int:
    from metabook.book.reproduce import EXPERIMENTS

    for name, todo in EXPERIMENTS.items():
        tests = ", ".join(
            f"{way}-way {shot}-shot {paper} %"
            for (way, shot), (paper, _) in todo.paper.items()
        )
        print(f"{name:27} {todo.iterations:,} iterations; the paper's {tests}")
    print("\nRun one: metabook reproduce NAME")
    return 0


def _run(args: argparse.Namespace) -> int:
    import torch

    from metabook.book import results
    from metabook.book.reproduce import reproduce

    if args.threads:
        torch.set_num_threads(args.threads)
    result = reproduce(
        args.name, args.seed, args.iterations, args.episodes, args.runs
    )
    command = f"metabook reproduce {args.name} --seed {args.seed}"
    if args.iterations:
        command += f" --iterations {args.iterations}"
    if args.episodes != 1000:
        command += f" --episodes {args.episodes}"
    out = Path(
        args.out or Path(args.runs) / f"{args.name}-seed{args.seed}.json"
    )
    result = {"command": command, **result}
    result["environment"] = results.environment()
    out.write_text(json.dumps(result, indent=2) + "\n", "utf8")
    training = result["training"]
    print(
        f"{training['iterations']:,} iterations, {training['minutes']} minutes"
    )
    for test in result["tests"]:
        ours = (
            f"{test['rotated']['accuracy']} % ± {test['rotated']['ci95']} over"
            f" {test['episodes']:,} episodes"
        )
        print(
            f"{test['way']}-way {test['shot']}-shot: {ours}; the paper"
            f" {test['paper']} %"
        )
    print(f"written: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
