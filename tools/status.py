# SPDX-License-Identifier: MIT
"""How long each notebook runs, on what, and when: run the English ones and
write book/status.json.

`python tools/check.py --status` comes here after every check has passed, so a
date on the page is a day on which the notebook's outputs were the stored ones.
The notebooks themselves are not changed. Seconds are those of one processor
core, which other work on the machine does not lengthen.
"""

import json
import os
import resource
import sys

from nbclient import NotebookClient

import notebooks as tool
from metabook.book.results import environment

sys.path.append(str(tool.ROOT / "book" / "_ext"))
from status_page import code_digest

FILE = tool.ROOT / "book" / "status.json"


def core_seconds(name: str) -> float:
    """Processor time of a run in a kernel of its own, one thread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    client = NotebookClient(
        tool.read("en", name),
        timeout=600,
        resources={"metadata": {"path": str(tool.FOLDER / "en")}},
        kernel_name="python3",
    )
    client.execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    user = after.ru_utime - before.ru_utime
    return user + after.ru_stime - before.ru_stime


def main() -> None:
    status = json.loads(FILE.read_text("utf8"))
    for name in sys.argv[1:] or tool.names():
        seconds = core_seconds(name)
        status["notebooks"][name] = {
            "core_seconds": round(seconds),
            "code": code_digest(name),
            **environment(),
        }
        print(f"{name}: {seconds:.0f} s of one core", flush=True)
        known = status["notebooks"]
        status["notebooks"] = {n: known[n] for n in tool.names() if n in known}
        FILE.write_text(json.dumps(status, indent=2) + "\n", "utf8")


if __name__ == "__main__":
    main()
