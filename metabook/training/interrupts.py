# SPDX-License-Identifier: MIT
"""Ctrl-C, held back until a moment at which a run can be saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

__all__ = ["CtrlC"]


class CtrlC:
    """Inside of this context, Ctrl-C waits for `let_through` or `check`; a
    second one does not.

    In threads other than the main one, which are told of no signals, and where
    the program ignores Ctrl-C, it does nothing.

    Examples
    --------
    >>> with CtrlC() as ctrl_c:
    ...     for step in range(3):
    ...         with ctrl_c.let_through():
    ...             pass  # what may be stopped at any moment
    ...         # what must be done wholly or not at all
    ...     ctrl_c.check()
    """

    def __init__(self) -> None:
        self.pressed = self.open = False
        self.before: Any = None

    def __enter__(self) -> "CtrlC":
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            self.before = (
                signal.signal(signal.SIGINT, self._note) or signal.SIG_DFL
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self.pressed:
            raise KeyboardInterrupt

    @contextmanager
    def let_through(self) -> Iterator[None]:
        """What is done in here may be stopped at any moment."""
        self.open = True
        try:
            self.check()
            yield
        finally:
            self.open = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        again, self.pressed = self.pressed, True
        if again or self.open:
            raise KeyboardInterrupt
