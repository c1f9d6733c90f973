# SPDX-License-Identifier: MIT
"""The committed results that pages and notebooks show: small JSON files, each
with the command that made it.
"""

import json
import math
import os
import platform
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

from metabook.data.files import write_whole

__all__ = ["environment", "load", "names", "save"]


def load(name: str) -> dict[str, Any]:
    """Read a committed result.

    Raises
    ------
    FileNotFoundError
        If there is no such result; the message lists those that there are.

    Examples
    --------
    >>> load("protonet_omniglot_1shot_seed0")["tests"][0]["paper"]
    98.8
    """
    file = files(__name__) / f"{name}.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"no result is called {name!r}; there are: {', '.join(names())}"
        )
    result: dict[str, Any] = json.loads(file.read_text("utf8"))
    return result


def names() -> list[str]:
    """What the committed results are called.

    Examples
    --------
    >>> "sinusoids" in names()
    True
    """
    return sorted(
        f.name.removesuffix(".json")
        for f in files(__name__).iterdir()
        if f.name.endswith(".json")
    )


def save(name: str, result: dict[str, Any], folder: Path | None = None) -> Path:
    """Write a result, with the machine and the versions that made it, beside
    the committed ones.

    Parameters
    ----------
    name : str
        What `load` will call it.
    result : dict
        Whatever JSON can hold; the key ``environment`` is added.
    folder : Path, optional
        Another place than beside the committed results.

    Returns
    -------
    Path
        The file.

    Examples
    --------
    >>> coin = {"command": "python toss.py", "heads": 3}
    >>> save("coin", coin)  # doctest: +SKIP
    """
    path = (folder or Path(str(files(__name__)))) / f"{name}.json"
    write(path, result)
    return path


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a result with its ``environment`` to a file of any name, whole or
    not at all; a number that is not finite, which JSON lacks, becomes null.
    """
    whole = _finite(result | {"environment": environment()})
    text = json.dumps(whole, indent=2, allow_nan=False) + "\n"
    write_whole(path, text.encode())


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def environment() -> dict[str, str | int]:
    """What a measured number depends on besides its seeds: processor, versions
    and day.

    Examples
    --------
    >>> sorted(environment())
    ['cores', 'date', 'gpu', 'numpy', 'processor', 'python', 'torch']
    """
    import numpy as np
    import torch

    names = [
        line
        for line in _read("/proc/cpuinfo").splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": (
            names[0].split(":", 1)[1].strip()
            if names
            else platform.processor() or platform.machine()
        ),
        "cores": os.cpu_count() or 1,
        "gpu": (
            torch.cuda.get_device_name(0)
            if torch.cuda.is_available()
            else "none"
        ),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "date": date.today().isoformat(),
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf8")
    except OSError:
        return ""
