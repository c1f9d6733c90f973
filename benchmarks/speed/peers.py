# SPDX-License-Identifier: MIT
"""Where the peers come from that the benchmarks of speed compare with.

They live in runs/peers, outside the book's environment, and use its torch.
"""

import importlib
import importlib.metadata
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

FOLDER = Path("runs") / "peers"
LEARN2LEARN = "learn2learn==0.2.0"

# puts the outer gradient into .grad of the model's parameters
Backward = Callable[[], object]


def install(*packages: str, folder: Path = FOLDER) -> bool:
    """Without what they depend on, which the book's environment has."""
    print(f"installing {packages[0]} under {folder}", flush=True)
    return pip("install", "--no-deps", "--target", str(folder), *packages)


def pip(*arguments: str) -> bool:
    """Whether pip succeeded; if not, it has said why on the screen."""
    options = ["--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", *options, *arguments]
    return subprocess.run(command, check=False).returncode == 0


def source_of(requirement: str, folder: Path) -> Path | None:
    """Download the source of a package and unpack it in a folder; where it lies
    then, if it could be had.
    """
    source_only = ["--no-deps", "--no-binary", ":all:"]
    if not pip("download", *source_only, "--dest", str(folder), requirement):
        return None
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
        return folder / archive.getnames()[0].split("/")[0]


def available(modules: dict[str, str]) -> dict[str, dict[str, str]]:
    """Import every peer, by name and module: {name: {"version": ...}} or
    {name: {"error": why not}}.
    """
    if str(FOLDER) not in sys.path:
        sys.path.append(
            str(FOLDER)
        )  # last, so that whatever both have comes from the book's environment
    found = {}
    for name, module in modules.items():
        try:
            importlib.import_module(module)
            if name == "learn2learn":
                version = importlib.import_module(
                    "learn2learn._version"
                ).__version__
            else:
                version = importlib.metadata.version(module.split(".")[0])
            found[name] = {"version": version}
        except Exception as error:
            found[name] = {"error": reason(error)}
    return found


def reason(error: Exception) -> str:
    """One line for the result, without the paths of this machine."""
    text = re.sub(r"(/[\w.+-]+){2,}", "...", str(error).strip()) or "no message"
    return f"{type(error).__name__}: {text.splitlines()[0]}"
