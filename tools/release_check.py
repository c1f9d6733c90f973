# SPDX-License-Identifier: MIT
"""Do the stored outputs hold elsewhere? The English notebooks, with other
thread counts and as on older processors.

The Chinese ones have the same code and outputs by test. The summary goes to
tools/release_check.json.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from metabook.book.results import environment

ROOT = Path(__file__).resolve().parents[1]
VARIANTS: dict[str, dict[str, str]] = {
    "one thread": {"OMP_NUM_THREADS": "1"},
    "two threads": {"OMP_NUM_THREADS": "2"},
    "torch without vector instructions": {
        "OMP_NUM_THREADS": "1",
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
    "a processor with AVX2 only": {
        "OMP_NUM_THREADS": "1",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
}
PYTEST = [sys.executable, "-m", "pytest", "-q", "-n", "auto"]
PYTEST += ["--dist", "loadfile", "--nbval", "--nbval-current-env"]
PYTEST += ["notebooks/en"]


def main() -> None:
    summary = {}
    for name, variables in VARIANTS.items():
        start = time.time()
        result = subprocess.run(
            PYTEST,
            cwd=ROOT,
            env=os.environ | variables,
            capture_output=True,
            text=True,
        )
        lines = result.stdout.strip().splitlines()
        last = lines[-1] if lines else result.stderr[-200:]
        summary[name] = {
            "variables": variables,
            "passed": result.returncode == 0,
            "seconds": round(time.time() - start),
        }
        print(f"{name}: {last}", flush=True)
        if result.returncode:
            print(result.stdout[-4000:])
    found = {"variants": summary, "environment": environment()}
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(found, indent=2) + "\n", "utf8")
    sys.exit(not all(v["passed"] for v in summary.values()))


if __name__ == "__main__":
    main()
