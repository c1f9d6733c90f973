# SPDX-License-Identifier: MIT
"""Results that took long to make, kept in files and read when a command runs
again.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metabook.data.files import write_whole


class Cache:
    """Named results, a JSON file each.

    ``of`` is what they depend on: the settings of a command, or its code and
    machine. A result that was made with others is made anew.
    """

    def __init__(self, folder: Path, of: dict[str, Any]) -> None:
        self.folder, self.of = folder, json.loads(json.dumps(of))

    def __call__(self, name: str, make: Callable[..., Any], *args: Any) -> Any:
        """The result of this name: the kept one, or else ``make(*args)``.

        Both have been through JSON, so that a command that was stopped ends as
        one that was not.
        """
        found = self.get(name)
        if found is None:
            self.put(name, make(*args))
            found = self.get(name)
            print(f"{name}: {shortened(found)}", flush=True)
        return found

    def get(self, name: str) -> Any | None:
        """The kept result, if there is one and it still holds."""
        file = self._file(name)
        kept = json.loads(file.read_text("utf8")) if file.exists() else {}
        return kept["result"] if kept.get("of") == self.of else None

    def put(self, name: str, result: Any) -> None:
        """Keep a result in place of an earlier one."""
        text = json.dumps({"of": self.of, "result": result})
        write_whole(self._file(name), text.encode("utf8"))

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def shortened(result: Any, most: int = 200) -> str:
    """As one line for the terminal."""
    text = str(result)
    return text if len(text) <= most else f"{text[:most]} ..."
