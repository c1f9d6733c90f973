# SPDX-License-Identifier: MIT
"""The command ``metabook``.

So far ``metabook reproduce``, which lists and runs the experiments of the
papers.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = _parser().parse_args(arguments)
    try:
        return _run(args) if args.name else _list()
    except (ValueError, OSError, RuntimeError) as error:
        print(f"metabook reproduce: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same line again goes on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
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
    add = reproduce.add_argument
    add("name", nargs="?")
    add(
        "--seed",
        type=_from(0),
        default=0,
        help="of the initial weights and the training tasks",
    )
    add("--threads", type=_from(1), help="cores to use; all unless given")
    add("--iterations", type=_from(1), help="fewer, to try the command")
    add(
        "--episodes",
        type=_from(1),
        default=1000,
        help="test episodes (default: 1000, as in the papers)",
    )
    add("--runs", default="runs", help="folder of checkpoints (default: runs)")
    add(
        "--out",
        help=(
            "the result's JSON file (default: NAME-seedSEED.json in the folder"
            " of runs)"
        ),
    )
    return parser


def _from(least: int) -> Callable[[str], int]:
    """Whole numbers from the least one on, for argparse."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return int(text)

    number.__name__ = "number"  # how argparse calls what is none
    return number


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

    out = (
        Path(args.runs, f"{args.name}-seed{args.seed}.json")
        if args.out is None
        else Path(args.out)
    )
    _check_out(out, args)
    if args.threads:
        torch.set_num_threads(args.threads)
    result = reproduce(
        args.name,
        seed=args.seed,
        iterations=args.iterations,
        episodes=args.episodes,
        runs=args.runs,
    )
    command = f"metabook reproduce {args.name} --seed {args.seed}"
    if args.iterations:
        command += f" --iterations {args.iterations}"
    if args.episodes != 1000:
        command += f" --episodes {args.episodes}"
    results.write(out, {"command": command, **result})
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


def _check_out(out: Path, args: argparse.Namespace) -> None:
    """See before the work that the result can be written after it.

    Raises
    ------
    ValueError
        If the file is a folder, no result, or a full result where this is a
        trial.
    OSError
        If its folder can neither be found nor made.
    """
    from metabook.book.reproduce import EPISODES, experiment

    full = experiment(args.name).iterations
    if out.is_dir():
        raise ValueError(f"{out} is a folder: name a file, --out {out}/x.json")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno,
            f"the folder of {out} cannot be made ({error.strerror}): choose"
            " another --out",
        ) from error
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        raise PermissionError(f"{out} cannot be written: choose another --out")
    if not out.exists():
        return
    try:
        old = json.loads(out.read_text("utf8"))
        iterations = old["training"]["iterations"]
        episodes = min(test["episodes"] for test in old["tests"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{out} is no result of this command: choose another --out"
        ) from None
    trial = (args.iterations or full) < full or args.episodes < EPISODES
    if trial and iterations >= full and episodes >= EPISODES:
        raise ValueError(
            f"{out} is a full result, and this would be a trial: choose another"
            " --out"
        )


if __name__ == "__main__":
    sys.exit(main())
