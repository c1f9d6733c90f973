# SPDX-License-Identifier: MIT
"""Set the repository's address everywhere: `python tools/address.py
https://github.com/NAME/REPOSITORY`.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def address() -> str:
    """The address that _config.yml names."""
    found = re.search(
        r"^\s+url: (https://github\.com/[\w.-]+/[\w.-]+)$",
        (ROOT / "_config.yml").read_text("utf8"),
        re.M,
    )
    if not found:
        sys.exit(
            "_config.yml names no repository: it needs a line 'url:"
            " https://github.com/NAME/REPOSITORY'"
        )
    return found[1]


def main() -> None:
    new = "".join(sys.argv[1:2]).removesuffix("/").removesuffix(".git")
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", new):
        sys.exit(
            "Say the address: make address"
            " URL=https://github.com/NAME/REPOSITORY"
        )
    old = address()
    # links to the repository are written in full, or as owner/name behind
    # Colab's and the raw files' hosts
    host = "https://github.com/"
    pairs = [(old, new), (old.removeprefix(host), new.removeprefix(host))]
    changed = []
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True)
    for name in tracked.splitlines():
        path = ROOT / name
        try:
            text = path.read_text("utf8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        replaced = text
        for before, after in pairs:
            whole = rf"(?<![\w-]){re.escape(before)}(?![\w-])"
            replaced = re.sub(whole, after, replaced)
        if replaced != text:
            path.write_text(replaced, "utf8")
            changed.append(name)
    print(f"{old} -> {new}: {len(changed)} files changed")


if __name__ == "__main__":
    main()
