# SPDX-License-Identifier: MIT
"""Everything that must hold, in one go: style, types, tests, and every notebook
against its stored outputs.

With `--status`, afterwards also the times on the page of status: see
tools/status.py.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent

# a file at a time, so that a notebook has one kernel
PYTEST = [sys.executable, "-m", "pytest", "-q", "-rs", "-n", "auto"]
PYTEST += ["--dist", "loadfile", "--doctest-modules"]
NBVAL = ["--nbval", "--nbval-current-env"]
# the slowest cells take about 30 s on an idle machine; a busy one is no failure
NBVAL += ["--nbval-cell-timeout", "600"]
STEPS = [
    [BIN / "ruff", "check", "--quiet", "."],
    # the cells of the notebooks too
    [BIN / "ruff", "format", "--quiet", "--check", "."],
    [BIN / "mypy"],
    [*PYTEST, *NBVAL, "metabook", "tests", "notebooks"],
]


def main() -> None:
    start = time.time()
    steps = [*STEPS]
    if "--status" in sys.argv:
        steps.append([sys.executable, ROOT / "tools" / "status.py"])
    # one thread each, so that stored outputs hold, and no bars in them
    env = os.environ | {"OMP_NUM_THREADS": "1", "METABOOK_PROGRESS": "0"}
    for command in steps:
        result = subprocess.run(command, cwd=ROOT, env=env)
        if result.returncode:
            sys.exit(result.returncode)
    if not (ROOT / "_build" / "html" / "index.html").exists():
        print(
            "THE SITE WAS NOT CHECKED: it is not built. Run `make book` first."
        )
    print(f"Everything holds ({(time.time() - start) / 60:.1f} minutes).")


if __name__ == "__main__":
    main()
