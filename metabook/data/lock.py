# SPDX-License-Identifier: MIT
"""One process at a time writes in a folder: a lock that ends with the process
that holds it, also if that is killed.
"""

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EAGAIN, EDEADLK
from pathlib import Path

__all__ = ["locked"]

if sys.platform == "win32":
    import msvcrt

    def _take(handle: int) -> None:
        os.lseek(handle, 2**30, os.SEEK_SET)  # what is locked cannot be read
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _take(handle: int) -> None:
        # not flock: worker processes would inherit it, and outlive a kill
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


_mine: set[Path] = set()  # this process is let in again, so it must remember


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes, and other calls in this one, out of a folder.

    Whoever holds the lock stands in its file, ``.lock``.

    Raises
    ------
    BlockingIOError
        If somebody holds the lock.
    PermissionError
        If the folder cannot be written.
    """
    place = folder.resolve()
    me = f"process {os.getpid()} on {platform.node()}"
    if place in _mine:
        raise _busy(folder, "another run in this program")
    try:
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{folder} cannot be written ({error.strerror}): choose another"
            " folder",
        ) from error
    try:
        try:
            _take(handle)
        except OSError as error:
            if error.errno in (EACCES, EAGAIN, EDEADLK):
                os.lseek(handle, 0, os.SEEK_SET)
                holder = os.read(handle, 200).decode("utf8", "replace")
                raise _busy(folder, holder or "another process") from None
            # else a file system that knows no locks: go on without
        _mine.add(place)
        try:
            _sign(handle, folder, me)
            yield
        finally:
            _mine.discard(place)
            os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _sign(handle: int, folder: Path, me: str) -> None:
    """Write into the lock who holds it."""
    try:
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, me.encode())
    except OSError as error:
        raise OSError(
            error.errno,
            f"{folder / '.lock'} cannot be written ({error.strerror}): make"
            " room on the disk, or choose another folder",
        ) from error


def _busy(folder: Path, holder: str) -> BlockingIOError:
    return BlockingIOError(
        f"{folder} is being written by {holder}: wait until that has ended, or"
        " choose another folder"
    )
