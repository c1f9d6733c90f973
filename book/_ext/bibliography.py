# SPDX-License-Identifier: MIT
"""book/references.bib as a page, each paper with the sections, pages and
modules that link to it.

```{papers}
```
Notebooks cite by plain links, which Colab shows too; so a paper is found by its
link, and no key is ever written.
"""

import json
import re
from functools import cache
from pathlib import Path

from api import language_of, titles
from docutils import nodes
from pybtex.database import Entry, Person, parse_file
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "book" / "references.bib"
# where papers live
PAPER = re.compile(
    r"https?://(?:(?:export\.)?arxiv\.org|(?:dx\.)?doi\.org|(?:www\.)?jmlr\.org|proceedings\.[\w.]+|papers\.n\w+ps\.cc"
    r"|openreview\.net|openaccess\.thecvf\.com|hal\.[\w.]+|inria\.hal\.science|aclanthology\.org)/[^\s)\"'`<>\\,;]+"
)
WORDS = {
    "en": {
        "and": " and ",
        "others": " and others",
        "comma": ", ",
        "cited": "Cited in ",
    },
    "zh": {"and": "、", "others": " 等", "comma": "、", "cited": "引用处："},
}


@cache
def papers() -> dict[str, Entry]:
    """The entries by their keys, by first author and year."""
    entries = parse_file(str(FILE)).entries
    return dict(
        sorted(
            entries.items(),
            key=lambda item: (
                names(item[1].persons["author"][0]),
                item[1].fields["year"],
            ),
        )
    )


def link_of(text: str) -> str:
    """A link without what differs between two ways of writing it."""
    link = re.sub(r"^https?://(www\.|dx\.|export\.)?", "", text.rstrip(".,;:/"))
    return re.sub(
        r"^arxiv\.org/(?:abs|pdf)/([\d.]+\d)(v\d+)?(\.pdf)?$",
        r"arxiv.org/abs/\1",
        link,
    ).lower()


def sources() -> dict[str, str]:
    """Every place that may cite, with its text: numbers of sections, names of
    pages, modules of the package.
    """
    found = {}
    for number, name in titles().items():
        for language in ("en", "zh"):
            notebook = json.loads(
                (ROOT / "notebooks" / language / f"{name}.ipynb").read_text(
                    "utf8"
                )
            )
            text = "\n".join(
                "".join(cell["source"]) for cell in notebook["cells"]
            )
            found[number] = found.get(number, "") + "\n" + text
    for language in ("en", "zh"):
        for path in sorted((ROOT / "book" / language).glob("*.md")):
            found[path.stem] = (
                found.get(path.stem, "") + "\n" + path.read_text("utf8")
            )
    for path in sorted((ROOT / "metabook").rglob("*.py")):
        name = ".".join(
            path.relative_to(ROOT).with_suffix("").parts
        ).removesuffix(".__init__")
        found[name] = path.read_text("utf8")
    return found


@cache
def citations() -> dict[str, list[str]]:
    """Link to places."""
    found: dict[str, list[str]] = {}
    for place, text in sources().items():
        for link in sorted({link_of(match) for match in PAPER.findall(text)}):
            found.setdefault(link, []).append(place)
    return found


def names(person: Person) -> str:
    """A family name as it is printed: without braces, with what stands before
    it.
    """
    return " ".join(person.prelast_names + person.last_names).strip("{}")


def authors(entry: Entry, words: dict[str, str]) -> str:
    """Family names, all of them."""
    people = [names(person) for person in entry.persons["author"]]
    if people[-1] == "others":
        return words["comma"].join(people[:-1]) + words["others"]
    return (
        words["comma"].join(people[:-1])
        + (words["and"] if people[1:] else "")
        + people[-1]
    )


class Papers(SphinxDirective):
    """A list of all papers."""

    def run(self) -> list[nodes.Node]:
        """One paragraph a paper, and one for where it is cited."""
        language = language_of(self.env.app)
        words = WORDS[language]
        rows = nodes.bullet_list(classes=["papers"])
        for key, entry in papers().items():
            fields = entry.fields
            where = fields.get("booktitle") or fields.get("journal")
            line = nodes.paragraph(
                "",
                (
                    f"{authors(entry, words)}{words['comma']}"
                    if language == "en"
                    else ""
                ),
            )
            if language == "zh":
                line += nodes.Text(f"{authors(entry, words)}：")
            line += nodes.reference("", fields["title"], refuri=fields["url"])
            line += nodes.Text(
                (", " if language == "en" else "，")
                + (f"{where} " if where else "")
                + fields["year"]
            )
            line += nodes.Text({"en": ". ", "zh": "。"}[language])
            line += self.places(
                citations().get(link_of(fields["url"]), []), language
            )
            item = nodes.list_item("", line, ids=[key])
            rows += item
        self.env.note_dependency(str(FILE))
        return [rows]

    def places(self, where: list[str], language: str) -> list[nodes.Node]:
        """Links to the sections and pages, and the names of modules."""
        words, parts = WORDS[language], []
        for place in where:
            if place.startswith("metabook"):
                parts.append(nodes.literal("", place))
                continue
            page = (
                f"notebooks/{language}/{titles()[place]}"
                if place in titles()
                else f"book/{language}/{place}"
            )
            explicit = (
                place in titles()
            )  # a section by its number, a page by its title
            parts.append(
                pending_xref("", nodes.inline("", place), refdomain="std", reftype="doc", refexplicit=explicit,
                             refdoc=self.env.docname, reftarget=f"/{page}", refwarn=True)
            )  # fmt: skip
        if not parts:
            return []
        joined: list[nodes.Node] = [nodes.Text(words["cited"])]
        for part in parts:
            joined += [part, nodes.Text(words["comma"])]
        return [*joined[:-1], nodes.Text({"en": ".", "zh": "。"}[language])]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("papers", Papers)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
