# SPDX-License-Identifier: MIT
"""The folder that a run is kept in. `train` and `nas.search` share it, and so
can be stopped at any moment and go on with the same line.

    last.pt      format, kind, settings and state, in one file that is whole
    best.pt      the weights of a training, for `torch.load`
    log.jsonl    one JSON object an iteration
    .lock        who writes at the moment
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metabook.data.files import (
    append,
    load_state,
    remove_parts,
    save_state,
    write_whole,
)
from metabook.data.lock import locked
from metabook.data.settings import differences

__all__ = ["RunFolder"]

FORMAT = 1  # of last.pt; another number when its content changes


class RunFolder:
    """Where a run keeps its state, if it was given a folder at all.

    Parameters
    ----------
    path : path or None
        With None, nothing is read or written.
    kind : str
        ``"training"`` or ``"search"``.
    keys : set of str
        What a state of this kind has.
    settings : callable
        ``settings()`` returns all that changes the result, as JSON; called only
        where there is a folder.

    Raises
    ------
    ValueError
        If the path is empty.
    NotADirectoryError
        If it is a file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        kind: str,
        keys: set[str],
        settings: Callable[[], dict[str, Any]],
    ) -> None:
        self.kind, self.keys = kind, keys
        self.logged = 0  # lines of the log that this process has written
        self.proven = False  # that a state can be loaded again
        self.path: Path | None = None
        if path is None:
            return
        if not os.fspath(path):
            raise ValueError(
                "checkpoint is empty: name a folder, or leave it out"
            )
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(
                f"{path} is a file; checkpoint is a folder: choose another name"
            )
        self.settings = settings()

    def read(self) -> dict[str, Any] | None:
        """The state of the run so far, None if there is none; changes nothing
        in the folder.

        Raises
        ------
        ValueError
            If it is the state of another run, or none that can be read.
        """
        if self.path is None or not (self.path / "last.pt").exists():
            return None
        file = self.path / "last.pt"
        saved = load_state(file)
        way_out = "Choose another folder, or remove this one"
        if saved.get("format", FORMAT) != FORMAT:
            raise ValueError(
                f"{file} has the format {saved['format']}, and this version of"
                f" metabook reads {FORMAT}: use the version that wrote it."
                f" {way_out}"
            )
        if saved.get("kind", self.kind) != self.kind:
            raise ValueError(
                f"{file} is a {saved['kind']}, and this is a {self.kind}."
                f" {way_out}"
            )
        _check_keys(file, saved, {"format", "kind", "settings", "state"})
        changed = differences(saved["settings"], self.settings)
        if changed:
            raise ValueError(
                f"{self.path} holds a {self.kind} with other settings:"
                f" {', '.join(changed)}. {way_out}"
            )
        state: dict[str, Any] = saved["state"]
        _check_keys(file, state, self.keys)
        self.proven = True
        return state

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep everybody else from writing here, and tidy up after a run that
        was killed.

        Raises
        ------
        BlockingIOError
            If another process writes here.
        OSError
            If nobody can.
        """
        if self.path is None:
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path):
            remove_parts(self.path, "last.pt", "best.pt", "log.jsonl")
            yield

    @contextmanager
    def opened(
        self, ended: Callable[[dict[str, Any]], bool]
    ) -> Iterator[dict[str, Any] | None]:
        """The state so far. Unless the run has ``ended``, nobody else writes
        until this context is left; a run that has can be read by many, also
        where nobody may write.

        Raises
        ------
        ValueError
            If the folder holds another run, or one that cannot be read.
        BlockingIOError
            If another process writes here.
        """
        state = self.read()
        if state is not None and ended(state):
            yield state
            return
        with self.writing():
            yield self.read()

    @contextmanager
    def naming(self) -> Iterator[None]:
        """What goes wrong in here is said of this folder."""
        try:
            yield
        except Exception as error:
            raise ValueError(
                f"{self.path} holds another {self.kind}: {error}. Or choose"
                " another folder"
            ) from error

    def save(
        self,
        state: dict[str, Any],
        log: Callable[[int], Iterable[dict[str, Any]]],
        best: dict[str, Any] | None = None,
    ) -> None:
        """Write the state, whole or not at all.

        Parameters
        ----------
        state : dict
            With the keys of this kind.
        log : callable
            ``log(i)`` returns the lines of the log from the i-th one on.
        best : dict, optional
            What goes into ``best.pt``.

        Raises
        ------
        OSError
            If the disk is full, or cannot be written.
        TypeError
            If the state holds something that could not be loaded again.
        """
        if self.path is None:
            return
        # the state comes last: where it says that the run has ended, the
        # other files are complete; where not, they are mended on resuming
        if best is not None:
            save_state(self.path / "best.pt", best)
        self._append([json.dumps(_strict(line)) for line in log(self.logged)])
        content = {"format": FORMAT, "kind": self.kind}
        content |= {"settings": self.settings, "state": state}
        save_state(self.path / "last.pt", content, prove=not self.proven)
        self.proven = True

    def _append(self, lines: list[str]) -> None:
        """Add to the log; the first lines in this process write it anew."""
        assert self.path is not None
        write = append if self.logged else write_whole
        text = "".join(f"{line}\n" for line in lines)
        write(self.path / "log.jsonl", text.encode())
        self.logged += len(lines)


def _check_keys(file: Path, found: object, expected: set[str]) -> None:
    keys = set(found) if isinstance(found, dict) else set()
    if keys != expected:
        raise ValueError(
            f"{file} was not written by this version of metabook: it lacks"
            f" {sorted(expected - keys)}, and has {sorted(keys - expected)}"
            " that nobody reads. Choose another folder, or remove this one"
        )


def _strict(line: dict[str, Any]) -> dict[str, Any]:
    """Without the infinities that JSON lacks."""
    return {
        key: None if isinstance(v, float) and not math.isfinite(v) else v
        for key, v in line.items()
    }
