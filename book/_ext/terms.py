# SPDX-License-Identifier: MIT
"""book/terms.yml as the glossary of an edition, and as the words that the
Chinese search does not cut.

```{glossary-of-terms}
```
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from api import language_of, link
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

FILE = Path(__file__).resolve().parents[1] / "terms.yml"
WHERE = {"en": " ({})", "zh": "（{} 节）"}
OTHER = {"en": " · {}", "zh": "（{}）"}  # its name in the other language


@cache
def terms() -> list[dict[str, Any]]:
    """The terms in the order of the file."""
    found: list[dict[str, Any]] = yaml.safe_load(FILE.read_text("utf8"))
    return found


def in_order(language: str) -> list[dict[str, Any]]:
    """By the alphabet; Chinese by sound, which is how its old national encoding
    orders the common characters.
    """
    if language == "en":
        return sorted(terms(), key=lambda term: term["en"].lower())
    return sorted(terms(), key=lambda term: term["zh"].encode("gb18030"))


def dictionary() -> str:
    """A line for each Chinese word of the terms, as jieba reads it."""
    words = {
        word
        for term in terms()
        for word in re.findall(r"[一-鿿]{2,}", term["zh"])
    }
    return "".join(f"{word} 100 n\n" for word in sorted(words))


class GlossaryOfTerms(SphinxDirective):
    """Every term, its name in the other language, its meaning and the section
    that explains it.
    """

    def run(self) -> list[nodes.Node]:
        """A definition list."""
        language = language_of(self.env.app)
        other = {"en": "zh", "zh": "en"}[language]
        lines = ["```{eval-rst}", ".. glossary::", ""]
        for term in in_order(language):
            there = ""
            if term["zh"] != term["en"]:
                there = OTHER[language].format(term[other])
            where = WHERE[language].format(link(term["section"], language))
            lines += [
                f"   {term[language]}{there}",
                f"      {term['define'][language]}{where}",
                "",
            ]
        box = nodes.container(classes=["terms"])
        self.state.nested_parse(
            StringList([*lines, "```"], source=str(FILE)),
            self.content_offset,
            box,
        )
        self.env.note_dependency(str(FILE))
        return [box]


def teach_the_search(app: Sphinx, config: Any) -> None:
    """Write the dictionary beside the pages' cache, for jieba to load when the
    index is made.
    """
    if language_of(app) == "zh":
        path = Path(app.doctreedir) / "terms.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dictionary(), "utf8")
        config.html_search_options = {"dict": str(path)}


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("glossary-of-terms", GlossaryOfTerms)
    app.connect("config-inited", teach_the_search)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
