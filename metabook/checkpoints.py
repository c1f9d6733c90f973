# SPDX-License-Identifier: MIT
"""Files that are either whole or not there."""

import io
import os
from pathlib import Path
from typing import Any

import torch

__all__ = ["load_state", "save_state", "write_whole"]


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a crash of the program leaves the old one or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Save tensors, numbers and strings to ``path``, whole or not at all."""
    data = io.BytesIO()
    torch.save(state, data)
    write_whole(path, data.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """Load what `save_state` wrote; runs no code from the file.

    Raises
    ------
    ValueError
        If the file is not such a checkpoint.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a readable checkpoint ({error}); remove it to start again") from error
    return state
