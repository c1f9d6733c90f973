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

STEPS = [
    [BIN / "ruff", "check", "--quiet", "."],
    [BIN / "ruff", "format", "--quiet", "--check", "."],
    [BIN / "mypy"],
    # a file at a time, so that a notebook has one kernel; one thread each, so
    # that stored outputs hold
    [sys.executable, "-m", "pytest", "-n", "auto", "--dist", "loadfile", "--doctest-modules", "-q", "-rs",
     "--nbval", "--nbval-current-env", "--nbval-cell-timeout", "120", "metabook", "tests", "notebooks"],
]  # fmt: skip


def main() -> None:
    start = time.time()
    status = (
        [[sys.executable, ROOT / "tools" / "status.py"]]
        if "--status" in sys.argv
        else []
    )
    for command in [*STEPS, *status]:
        result = subprocess.run(
            list(map(str, command)),
            cwd=ROOT,
            env=os.environ
            | {"OMP_NUM_THREADS": "1", "METABOOK_PROGRESS": "0"},
        )
        if result.returncode:
            sys.exit(result.returncode)
    if not (ROOT / "_build" / "html" / "index.html").exists():
        print(
            "THE SITE WAS NOT CHECKED: it is not built. Run `make book` first."
        )
    print(f"Everything holds ({(time.time() - start) / 60:.1f} minutes).")


if __name__ == "__main__":
    main()
