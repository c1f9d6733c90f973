# SPDX-License-Identifier: MIT
"""Other processes, to be killed."""

import os
import signal
import traceback


class Child:
    """A process that does one thing, ``function(say)``, and can be killed.

    What it says is read line by line; in the end it says "done", or what went
    wrong. A fork, so that it begins at once.
    """

    def __init__(self, function):
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reader)
            try:
                function(lambda word: os.write(writer, f"{word}\n".encode()))
                os.write(writer, b"done\n")
            except BaseException:
                os.write(writer, traceback.format_exc().encode())
            finally:
                os._exit(0)
        os.close(writer)
        self.lines = os.fdopen(reader)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.lines.close()

    def line(self):
        """The next line, empty when it has ended."""
        return self.lines.readline().strip()

    def rest(self):
        """All lines until it has ended."""
        return self.lines.read().splitlines()
