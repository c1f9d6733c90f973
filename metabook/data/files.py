# SPDX-License-Identifier: MIT
"""Files that are either whole or not there, and data sets that are what they
say they are.
"""

import glob
import io
import os
import urllib.request
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar

import torch

from metabook.data.progress import progress_bar

__all__ = [
    "Refused",
    "append",
    "load_state",
    "obtain",
    "remove_parts",
    "save_state",
    "write_whole",
]

T = TypeVar("T")


class Refused(ValueError):
    """The bytes are not what they should be."""


def obtain(
    dataset: str,
    name: str,
    url: str,
    check: Callable[[bytes], T],
    largest: int,
    way_out: str,
) -> T:
    """What ``check`` makes of the first good copy of a file: a local one, or
    else a download, which is then kept.

    Parameters
    ----------
    dataset : str
        Name of its folder in ``$METABOOK_DATA`` and in the user's cache, which
        are looked through in this order.
    name : str
        Of the file; ``images.zip`` also finds ``images.2015.zip``.
    url : str
    check : callable
        From the bytes to what is made of them; raises `Refused` where they are
        something else.
    largest : int
        More bytes than these are not downloaded.
    way_out : str
        What the user can do where there is no copy and no download.

    Raises
    ------
    RuntimeError
        If there is no copy and none can be downloaded, or the download is
        refused.
    """
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        / "metabook"
        / dataset
    )
    folders = [cache]
    if os.environ.get("METABOOK_DATA"):
        folders.insert(0, Path(os.environ["METABOOK_DATA"]) / dataset)
    stem, dot, suffix = name.rpartition(".")
    for folder in folders:
        for path in sorted(
            {*folder.glob(name), *folder.glob(f"{stem}.*{dot}{suffix}")}
        ):
            try:
                return check(path.read_bytes())
            except (Refused, OSError) as reason:
                warnings.warn(f"{path} is left aside: {reason}", stacklevel=4)
    try:
        data = _download(url, largest)
    except (OSError, HTTPException) as error:
        raise RuntimeError(
            f"no copy of {dataset} was found, and {url} could not be downloaded"
            f" ({error}). {way_out}"
        ) from error
    try:
        result = check(data)
    except Refused as reason:
        raise RuntimeError(
            f"{url} delivered something else: {reason}. Nothing was kept"
        ) from reason
    try:
        write_whole(cache / name, data)
    except OSError as reason:
        warnings.warn(
            f"the download could not be kept for the next time: {reason}",
            stacklevel=4,
        )
    return result


def _download(url: str, largest: int) -> bytes:
    """The bytes at ``url``, with a progress bar."""
    data = io.BytesIO()
    with urllib.request.urlopen(url, timeout=30) as response:
        size = int(response.headers.get("Content-Length") or 0) or None
        with progress_bar(
            total=size,
            unit="B",
            unit_scale=True,
            desc=url.rsplit("/", 1)[1],
        ) as bar:
            while piece := response.read(1 << 16):
                data.write(piece)
                bar.update(len(piece))
                if data.tell() > largest:
                    raise OSError(f"it is larger than {largest:,} bytes")
    return data.getvalue()


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write a file so that a crash of the program leaves the old one or the new
    one, never half of one.

    Raises
    ------
    OSError
        If it cannot be written, as on a full disk; the old one is as it was.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def append(path: Path, data: bytes) -> None:
    """Add to the end of a file.

    Raises
    ------
    OSError
        If it cannot be written; a part of the data may be there then.
    """
    try:
        with path.open("ab") as file:
            file.write(data)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> OSError:
    """An error of the same kind that names the file and a way out."""
    return OSError(
        error.errno,
        f"{path} could not be written ({error.strerror}); what it held is still"
        " there. Make room, or choose another folder",
    )


def remove_parts(folder: Path, *names: str) -> None:
    """Remove what a killed process has left of its `write_whole`."""
    for name in names:
        for part in folder.glob(f"{glob.escape(name)}.*.part"):
            part.unlink(missing_ok=True)


def save_state(path: Path, state: dict[str, Any], prove: bool = False) -> None:
    """Save tensors, numbers and strings to ``path``, whole or not at all.

    Raises
    ------
    TypeError
        If the state could not be loaded again; seen only with ``prove``, which
        costs a loading.
    """
    data = io.BytesIO()
    torch.save(state, data)
    if prove:
        try:
            torch.load(io.BytesIO(data.getbuffer()), weights_only=True)
        except Exception as error:
            raise TypeError(
                "the state cannot be loaded again, so it is not saved"
                f" ({_short(error)}): it may hold numbers, strings, tensors,"
                " tuples, lists and dicts"
            ) from error
    write_whole(path, data.getbuffer())


def load_state(path: Path) -> dict[str, Any]:
    """Load what `save_state` wrote; runs no code from the file.

    Raises
    ------
    ValueError
        If the file is not such a checkpoint, or damaged.
    """
    data = path.read_bytes()  # an error of the disk is none of the content
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            if damaged := file.testzip():
                raise ValueError(f"{damaged} is damaged")
        state = torch.load(
            io.BytesIO(data), map_location="cpu", weights_only=True
        )
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
    except Exception as error:
        raise ValueError(
            f"{path} is not a readable checkpoint ({_short(error)}): it is cut"
            " short, damaged, or another file. Remove it to start again, or"
            " choose another folder"
        ) from error
    return state


def _short(error: Exception) -> str:
    return (str(error) or type(error).__name__).split("\n")[0]
