# SPDX-License-Identifier: MIT
"""What the benchmarks of speed share: fair turns, the same weights for
everyone, and parts that a full run goes on after.
"""

import argparse
import gc
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from metabook.book import results


def time_in_turn(
    steps: dict[str, Callable[[], Any]], rounds: int, calls: int, name: str
) -> dict[str, np.ndarray]:
    """Seconds of every step in every round, after one round to warm up; who
    goes first changes with the round.
    """
    times: dict[str, list[float]] = {who: [] for who in steps}
    for i in tqdm(range(rounds + 1), desc=name, leave=False, disable=None):
        order = list(steps)[i % len(steps) :] + list(steps)[: i % len(steps)]
        for who in order:
            gc.collect()  # nobody pays for what another has left behind
            start = time.perf_counter()
            for _ in range(calls):
                steps[who]()
            times[who].append((time.perf_counter() - start) / calls)
    return {who: np.array(seconds[1:]) for who, seconds in times.items()}


def summary(
    times: dict[str, np.ndarray], reference: str
) -> dict[str, dict[str, Any]]:
    """Median and quartiles in ms, and how many times faster than the reference."""
    entries = {}
    for name, seconds in times.items():
        low, median, high = 1e3 * np.quantile(seconds, [0.25, 0.5, 0.75])
        entries[name] = {
            "ms": digits(median),
            "ms_quartiles": [digits(low), digits(high)],
        }
        if reference in times:
            entries[name] |= ratio(times[reference] / seconds)
    return entries


def ratio(ratios: np.ndarray) -> dict[str, Any]:
    """Median over rounds of how many times faster than the reference, with a 95
    % bootstrap interval.
    """
    medians = np.median(
        np.random.default_rng(0).choice(ratios, (2000, len(ratios))), axis=1
    )
    low, high = np.quantile(medians, [0.025, 0.975])
    return {
        "speedup": digits(np.median(ratios)),
        "speedup_ci95": [digits(low), digits(high)],
    }


def digits(x: float) -> float:
    """Four significant digits."""
    return float(f"{x:.4g}")


def by_layer(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by number of layer and name in it: the same keys for
    networks that are written differently.
    """
    layers = [
        m
        for m in model.modules()
        if any(True for _ in m.parameters(recurse=False))
    ]
    return {
        f"{i} {name}": p
        for i, layer in enumerate(layers)
        for name, p in layer.named_parameters(recurse=False)
    }


def with_weights_of(ours: nn.Module, plain: nn.Module) -> nn.Module:
    """The peers' network with metabook's weights, which has no bias where batch
    norm would take it away again.
    """
    weights = by_layer(ours)
    for key, p in by_layer(plain).items():
        p.data = (
            weights[key].data.clone().contiguous()
            if key in weights
            else torch.zeros_like(p)
        )
    return plain


def gradient_of(model: nn.Module) -> dict[str, Tensor]:
    """What lies in ``.grad``, in float64, by the keys of `by_layer`."""
    return {
        key: p.grad.double()
        for key, p in by_layer(model).items()
        if p.grad is not None
    }


def relative_error(
    gradient: dict[str, Tensor], expected: dict[str, Tensor]
) -> float:
    """Norm of the difference over norm of the expected; what only one of them
    has is compared with zero.
    """
    zero = torch.zeros(())
    keys = gradient.keys() | expected.keys()
    off = sum(
        float((gradient.get(k, zero) - expected.get(k, zero)).square().sum())
        for k in keys
    )
    return (
        off / sum(float(g.square().sum()) for g in expected.values())
    ) ** 0.5


def fingerprint(files: Iterable[Path]) -> dict[str, Any]:
    """What a finished part depends on: with another machine, other versions or
    other code it is measured anew.
    """
    code = hashlib.sha256()
    for file in [Path(__file__), *files]:
        code.update(file.read_bytes())
    machine = {
        key: value
        for key, value in results.environment().items()
        if key != "date"
    }
    return machine | {"code": code.hexdigest()}


@dataclass(frozen=True)
class Part:
    """What is measured in a process of its own, and variables of the
    environment that it is given.
    """

    measure: Callable[[], Any]
    environment: dict[str, str] = field(default_factory=dict)


def run(
    script: str,
    doc: str | None,
    parts_of: Callable[[bool], dict[str, Part]],
    of: dict[str, Any],
    prepare: Callable[[], None],
    merge: Callable[[dict[str, Any]], dict[str, Any]],
    folder: str,
    result: str,
) -> int:
    """The command: measure what is not finished yet, and when all is there
    write the result.

    ``parts_of(quick)`` names the parts; finished ones lie in runs/``folder``,
    with ``of``, what they depend on.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--list", action="store_true", help="name the parts of a full run"
    )
    parser.add_argument(
        "--work",
        default="",
        metavar="NAME",
        help="only the parts whose names begin so, anew",
    )
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=[1, 2],
        help="only the works with so many threads",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny, with two repeats; keeps nothing",
    )
    parser.add_argument(
        "--part", nargs=2, help=argparse.SUPPRESS
    )  # name and file: this is the process of one part
    args = parser.parse_args()
    parts = parts_of(args.quick)
    if args.part:
        name, file = args.part
        Path(file).write_text(
            json.dumps({"of": of, "result": parts[name].measure()}), "utf8"
        )
        return 0

    left_out = [f"-{n}thread" for n in (1, 2) if n not in args.threads]
    wanted = [
        n
        for n in parts
        if n.startswith(args.work)
        and not any(threads in n for threads in left_out)
    ]
    if args.list or not wanted:
        print("\n".join(parts))
        return 0 if args.list else 2
    prepare()
    with tempfile.TemporaryDirectory() as nowhere:
        place = Path(nowhere) if args.quick else Path("runs") / folder
        place.mkdir(parents=True, exist_ok=True)
        for name in wanted:
            file = place / f"{name}.json"
            if args.work or _finished(file, of) is None:
                print(f"measuring {name}", flush=True)
                command = [
                    sys.executable,
                    script,
                    "--part",
                    name,
                    str(file),
                ] + ["--quick"] * args.quick
                subprocess.run(
                    command,
                    check=True,
                    env=os.environ | parts[name].environment,
                )
            _show(name, _finished(file, of) or {})
        done = {name: _finished(place / f"{name}.json", of) for name in parts}
    missing = [name for name, found in done.items() if found is None]
    if args.quick:
        print("nothing kept" if missing else json.dumps(merge(done), indent=2))
    elif missing:
        print(f"still to be measured: {', '.join(missing)}")
    else:
        print(f"written: {results.save(result, merge(done))}")
    return 0


def _finished(file: Path, of: dict[str, Any]) -> Any | None:
    """The result in this file, if it is there and still holds."""
    part = json.loads(file.read_text("utf8")) if file.exists() else {}
    return part["result"] if part.get("of") == of else None


def _show(name: str, result: dict[str, Any]) -> None:
    """A part, for the reader at the terminal."""
    print(f"{name}: {result}" if "implementations" not in result else name)
    for who, entry in result.get("implementations", {}).items():
        print(
            f"  {who:20}",
            ", ".join(f"{key} {value}" for key, value in entry.items()),
            flush=True,
        )
