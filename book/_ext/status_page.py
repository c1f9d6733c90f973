# SPDX-License-Identifier: MIT
"""book/status.json as a table: each notebook's time, versions, machine and day.

```{status-table}
```
The code of a notebook may have changed since it was measured; the table then
says so.
"""

import hashlib
import json

from api import ROOT, language_of, titles
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

FILE = ROOT / "book" / "status.json"
HEADS = {
    "en": "seconds of one core, torch, Python, processor, day",
    "zh": "单核秒数, torch, Python, 处理器, 日期",
}
WORDS = {
    "en": {"changed": "{} (code changed since)", "none": "not measured yet"},
    "zh": {"changed": "{}（此后代码有改动）", "none": "尚未测量"},
}


def code_digest(name: str) -> str:
    """Changes when the code of a notebook does; tools/status.py stores it
    beside the time.
    """
    notebook = json.loads(
        (ROOT / "notebooks" / "en" / f"{name}.ipynb").read_text("utf8")
    )
    code = "\n".join(
        "".join(cell["source"])
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    )
    return hashlib.sha256(code.encode()).hexdigest()[:12]


def rows(language: str) -> list[list[str]]:
    """The head and a row for each notebook."""
    words = WORDS[language]
    known = json.loads(FILE.read_text("utf8"))["notebooks"]
    table = [["", *HEADS[language].split(", ")]]
    for number, name in titles().items():
        link = f"[{number}](/notebooks/{language}/{name}.ipynb)"
        if name not in known:
            table.append([link, words["none"], *[""] * (len(table[0]) - 2)])
            continue
        m = known[name]
        day = m["date"]
        if m["code"] != code_digest(name):
            day = words["changed"].format(day)
        measured = ("core_seconds", "torch", "python", "processor")
        table.append([link, *(str(m[key]) for key in measured), day])
    return table


class StatusTable(SphinxDirective):
    """A row for each notebook."""

    def run(self) -> list[nodes.Node]:
        """The table."""
        table = rows(language_of(self.env.app))
        table.insert(1, ["---", "---:", *["---"] * 4])
        lines = StringList(
            ["| " + " | ".join(row) + " |" for row in table], source=str(FILE)
        )
        box = nodes.container(classes=["measured"])
        self.state.nested_parse(lines, self.content_offset, box)
        self.env.note_dependency(str(FILE))
        return [box]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("status-table", StatusTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
