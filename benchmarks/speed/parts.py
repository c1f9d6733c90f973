# SPDX-License-Identifier: MIT
"""The command line of a benchmark of speed: parts in processes of their own,
which a full run goes on after.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import metabook
from metabook.book import results

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
from cache import Cache
from command import ROOT, line_of, parser

PACKAGE = Path(metabook.__file__).parent

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """What is measured in a process of its own, and variables of the
    environment that it is given.
    """

    measure: Callable[[], Numbers]
    environment: dict[str, str] = field(default_factory=dict)


def run(
    script: str,
    doc: str | None,
    name: str,
    parts_of: Callable[[bool], dict[str, Part]],
    rooms: Sequence[str],
    prepare: Callable[[], None],
    merge: Callable[[dict[str, Numbers]], Numbers],
) -> int:
    """Measure what is not finished yet, and when all is there write the result.

    ``parts_of(quick)`` names the parts; finished ones lie in runs/``name``.
    ``rooms`` are the folders and files of the package that are measured.
    """
    options = parser(doc)
    options.add_argument(
        "--list", action="store_true", help="name the parts of a full run"
    )
    options.add_argument(
        "--work",
        default="",
        metavar="NAME",
        help="only the parts whose names begin so, anew",
    )
    # this is the process of one part
    options.add_argument("--part", help="used by the command itself")
    args = options.parse_args()
    parts, of = parts_of(args.quick), fingerprint(rooms)
    if args.quick:
        with tempfile.TemporaryDirectory() as nowhere:
            cache = Cache(Path(nowhere), of)
            done = {p: cache(p, part.measure) for p, part in parts.items()}
        print(json.dumps(merge(done), indent=2))
        return 0
    cache = Cache(Path("runs") / name, of)
    if args.part:
        cache.put(args.part, parts[args.part].measure())
        return 0
    wanted = [p for p in parts if p.startswith(args.work)]
    if args.list or not wanted:
        print("\n".join(parts))
        return 0 if args.list else 2
    prepare()
    for p in wanted:
        if args.work or cache.get(p) is None:
            print(f"measuring {p}", flush=True)
            subprocess.run(
                [sys.executable, script, "--part", p],
                check=True,
                env=os.environ | parts[p].environment,
            )
        show(p, cache.get(p))
    done = {p: cache.get(p) for p in parts}
    missing = [p for p, found in done.items() if found is None]
    if missing:
        print(f"still to be measured: {', '.join(missing)}")
    else:
        result = {"command": line_of(script), **merge(done)}
        print(f"written: {results.save(name, result)}")
    return 0


def fingerprint(rooms: Sequence[str]) -> dict[str, Any]:
    """What a finished part depends on: with another machine, other versions or
    other code it is measured anew.
    """
    loaded = [getattr(m, "__file__", None) for m in sys.modules.values()]
    benchmarks = {
        file
        for file in (Path(f).resolve() for f in loaded if f)
        if file.is_relative_to(ROOT / "benchmarks")
    }
    code = hashlib.sha256()
    for file in [*sorted(benchmarks), *(f for r in rooms for f in files_of(r))]:
        code.update(file.read_bytes())
    machine = results.environment()
    del machine["date"]
    return machine | {"code": code.hexdigest()}


def files_of(room: str) -> list[Path]:
    """Of a folder of the package, or the file itself."""
    path = PACKAGE / room
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    if not files:
        raise FileNotFoundError(f"{path} has no code: where did it move?")
    return files


def show(part: str, result: Numbers) -> None:
    """A part, for the reader at the terminal."""
    print(part if "implementations" in result else f"{part}: {result}")
    for who, entry in result.get("implementations", {}).items():
        numbers = ", ".join(f"{key} {value}" for key, value in entry.items())
        print(f"  {who:20}", numbers, flush=True)
