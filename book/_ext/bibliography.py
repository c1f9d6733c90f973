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
    r"https?://(?:(?:export\.)?arxiv\.org|(?:dx\.)?doi\.org"
    r"|(?:www\.)?jmlr\.org|proceedings\.[\w.]+|papers\.n\w+ps\.cc"
    r"|openreview\.net|openaccess\.thecvf\.com|hal\.[\w.]+"
    r"|inria\.hal\.science|aclanthology\.org)/[^\s)\"'`<>\\,;]+"
)
WORDS = {
    "en": {
        "and": " and ",
        "others": " and others",
        "comma": ", ",
        "cited": "Cited in ",
        "marks": (", ", ", ", ". "),  # behind authors, title, year
    },
    "zh": {
        "and": "、",
        "others": " 等",
        "comma": "、",
        "cited": "引用处：",
        "marks": ("：", "，", "。"),
    },
}


@cache
def papers() -> dict[str, Entry]:
    """The entries by their keys, by first author and year."""
    entries = parse_file(str(FILE)).entries

    def place(key: str) -> tuple[str, str]:
        entry = entries[key]
        return names(entry.persons["author"][0]), entry.fields["year"]

    return {key: entries[key] for key in sorted(entries, key=place)}


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
            file = ROOT / "notebooks" / language / f"{name}.ipynb"
            cells = json.loads(file.read_text("utf8"))["cells"]
            text = "\n".join("".join(cell["source"]) for cell in cells)
            found[number] = found.get(number, "") + "\n" + text
    for language in ("en", "zh"):
        for path in sorted((ROOT / "book" / language).glob("*.md")):
            text = path.read_text("utf8")
            found[path.stem] = found.get(path.stem, "") + "\n" + text
    for path in sorted((ROOT / "metabook").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path.read_text("utf8")
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
    *first, last = (names(person) for person in entry.persons["author"])
    if last == "others":
        return words["comma"].join(first) + words["others"]
    return words["comma"].join(first) + (words["and"] if first else "") + last


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
            year = f"{where} {fields['year']}" if where else fields["year"]
            colon, comma, stop = WORDS[language]["marks"]
            line = nodes.paragraph()
            line += nodes.Text(authors(entry, words) + colon)
            line += nodes.reference("", fields["title"], refuri=fields["url"])
            line += nodes.Text(comma + year)
            line += nodes.Text(stop)
            cited = citations().get(link_of(fields["url"]), [])
            line += self.places(cited, language)
            rows += nodes.list_item("", line, ids=[key])
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
            to_place = pending_xref(
                "",
                nodes.inline("", place),
                refdomain="std",
                reftype="doc",
                # a section by its number, a page by its title
                refexplicit=place in titles(),
                refdoc=self.env.docname,
                reftarget=f"/{page}",
                refwarn=True,
            )
            parts.append(to_place)
        if not parts:
            return []
        joined: list[nodes.Node] = [nodes.Text(words["cited"])]
        for part in parts:
            joined += [part, nodes.Text(words["comma"])]
        return [*joined[:-1], nodes.Text({"en": ".", "zh": "。"}[language])]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("papers", Papers)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
