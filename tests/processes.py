# SPDX-License-Identifier: MIT
"""Other processes, to be killed."""

import itertools
import math
import os
import signal
import traceback


class Child:
    """A process that does one thing, ``function(say)``, and can be killed.

    What it says is read line by line; in the end it says "done", or what went
    wrong. After so many ``words`` it goes no further. A fork, so that it begins
    at once.
    """

    def __init__(self, function, words=math.inf):
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reader)
            try:
                count = itertools.count(1)

                def say(word):
                    os.write(writer, f"{word}\n".encode())
                    if next(count) >= words:
                        signal.pause()

                function(say)
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
