# SPDX-License-Identifier: MIT
"""The command line of a script whose result is committed."""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cache import Cache

from metabook.book import results

ROOT = Path(__file__).resolve().parents[1]

Settings = dict[str, Any]


def run(
    script: str,
    doc: str | None,
    protocol: Settings,
    tiny: Settings,
    measure: Callable[[Settings, Cache, bool], dict[str, Any]],
    folder: Path | None = None,
) -> None:
    """Measure on one thread, and write the result beside the committed ones,
    or into ``folder``.

    ``measure(protocol, cache, quick)`` returns what the result says beside its
    protocol. Parts that it has made through the cache lie under runs/, in a
    folder with the script's name, and the same line again goes on after them.
    With ``--quick`` the settings in ``tiny`` take the place of those in
    ``protocol``, the result is printed, and nothing is kept.
    """
    name = Path(script).stem
    quick = parser(doc).parse_args().quick
    torch.set_num_threads(1)
    if quick:
        protocol = changed(protocol, tiny)
        with tempfile.TemporaryDirectory() as nowhere:
            result = measure(protocol, Cache(Path(nowhere), protocol), quick)
        print(json.dumps(result, indent=2))
        return
    result = measure(protocol, Cache(Path("runs") / name, protocol), quick)
    result = {"command": line_of(script), **protocol, **result}
    print(f"written: {results.save(name, result, folder=folder)}")


def parser(doc: str | None) -> argparse.ArgumentParser:
    """With the option that every script has."""
    answer = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    answer.add_argument(
        "--quick",
        action="store_true",
        help="tiny, to try the command; keeps nothing, fetches nothing",
    )
    return answer


def line_of(script: str) -> str:
    """What is typed at the top of the repository."""
    path = Path(script).resolve().relative_to(ROOT)
    return f"python {path.as_posix()}"


def changed(settings: Settings, others: Settings) -> Settings:
    """The settings with some of them, also inner ones, replaced."""
    unknown = others.keys() - settings.keys()
    if unknown:
        raise KeyError(
            f"{', '.join(sorted(unknown))}: no such setting; there are"
            f" {', '.join(settings)}"
        )
    return {
        key: changed(value, others[key])
        if isinstance(value, dict) and isinstance(others.get(key), dict)
        else others.get(key, value)
        for key, value in settings.items()
    }
