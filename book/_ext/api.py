# SPDX-License-Identifier: MIT
"""The reference of the package, from its docstrings, and the way between a name
and the sections that use it.

```{names}
MAML   Learn where gradient descent starts.
```
```{name-index}
```

The first is an entry for each name, with the words of this edition before its
docstring; the second says which section uses which name, read from the code of
the notebooks.

An entry links to the sections that teach it ("Taught in section 3.1" in the
docstring of its module) and to those that use it; every section ends with links
to the entries of the names that it uses, on the site alone.
"""

import ast
import importlib
import inspect
import json
import re
import sys
from functools import cache
from pathlib import Path
from types import GenericAlias, ModuleType
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "metabook"
# where public names live; of these modules a page documents what their __all__
# names
MODULES = [
    "metabook",
    "metabook.nas",
    "metabook.nas.proxies",
    "metabook.nas.candidates",
    "metabook.nas.nasbench201",
    "metabook.nas.supernet",
    "metabook.metric.distances",
    "metabook.optimization.learner",
    "metabook.optimization.method",
    "metabook.testing",
    "metabook.book.results",
    "metabook.book.exercises",
    "metabook.book.figures",
]
NOT_ENTRIES = {"BLUE", "GREEN", "GREY", "ORANGE", "PURPLE"}
NOT_ENTRIES |= {"DISTANCES", "Distance", "distance_by_name"}
FURNITURE = ("book.",)  # every section uses them, and none is about them
WORDS = {
    "en": {
        "taught": "Taught in section {}.",
        "used": "Used in {}.",
        "here": "In the reference: ",
        "comma": ", ",
        "stop": ".",
    },
    "zh": {
        "taught": "在 {} 节讲解。",
        "used": "用于 {} 节。",
        "here": "代码参考：",
        "comma": "、",
        "stop": "。",
    },
}


def language_of(app: Sphinx) -> str:
    return str(app.config.language).split("_")[0]


def public_names() -> list[str]:
    """Every name that a page of the reference must have, as it is written
    behind ``metabook.``.
    """
    names = []
    for module in map(importlib.import_module, MODULES):
        prefix = f"{module.__name__}.".removeprefix(f"{PACKAGE}.")
        for name in module.__all__:
            is_module = inspect.ismodule(getattr(module, name))
            if name not in NOT_ENTRIES and not is_module:
                names.append(prefix + name)
    return names


def find(name: str) -> Any:
    """What a name stands for, and the module or class in which it stands."""
    thing: Any = importlib.import_module(PACKAGE)
    for part in name.split("."):
        if isinstance(thing, ModuleType) and not hasattr(thing, part):
            importlib.import_module(f"{thing.__name__}.{part}")
        thing = getattr(thing, part)
    return thing


@cache
def titles() -> dict[str, str]:
    """The notebooks that there are: number of the section, and file name
    without its ending.
    """
    return {
        ".".join(p.stem.split("_")[:2]): p.stem
        for p in sorted((ROOT / "notebooks" / "en").glob("*.ipynb"))
    }


def taught_in(name: str) -> list[str]:
    """The numbers of the sections that the docstring of the name's module, or
    of its package, says.
    """
    thing = find(name)
    home = getattr(thing, "__module__", None) or ""
    if not home.startswith(PACKAGE):
        home = f"{PACKAGE}.{name}".rpartition(".")[0]
    doc = inspect.getdoc(sys.modules[home]) if home in sys.modules else ""
    said = re.search(r"Taught\s+in\s+sections?\s+([\d.,\sand]+)", doc or "")
    return re.findall(r"\d\.\d", said[1]) if said else []


@cache
def used_in(number: str) -> frozenset[str]:
    """The public names that the code of a section mentions."""
    file = ROOT / "notebooks" / "en" / f"{titles()[number]}.ipynb"
    notebook = json.loads(file.read_text("utf8"))
    known, found = set(public_names()), set()
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code" or cell["id"] == "setup":
            continue
        tree = ast.parse("".join(cell["source"]))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                found.add(re.sub(r"^(mb|metabook)\.", "", ast.unparse(node)))
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{a.name}" for a in node.names]
                found |= {name.removeprefix(f"{PACKAGE}.") for name in names}
    return frozenset(
        name for name in found & known if not name.startswith(FURNITURE)
    )


def link(number: str, language: str) -> str:
    """A link to a section in reStructuredText."""
    return f":doc:`{number} </notebooks/{language}/{titles()[number]}>`"


# what the page says of a name, before its docstring
_words: dict[str, str] = {}


def add_sections(
    app: Sphinx,
    what: str,
    name: str,
    thing: Any,
    options: Any,
    lines: list[str],
) -> None:
    """Behind the first paragraph of an entry, the sections that teach it and
    those that use it.
    """
    short = name.removeprefix(f"{PACKAGE}.")
    if short not in public_names():
        return
    language = language_of(app)
    words, taught = WORDS[language], taught_in(short)
    used = [
        number
        for number in titles()
        if short in used_in(number) and number not in taught
    ]
    parts = [
        words[key].format(
            words["comma"].join(link(number, language) for number in numbers)
        )
        for key, numbers in (("taught", taught), ("used", used))
        if numbers
    ]
    first = lines.index("") if "" in lines else len(lines)
    lines[first:first] = ["", " ".join(parts), ""] if parts else []
    lines[:0] = [_words[short], ""] if short in _words else []


class Names(SphinxDirective):
    """Entries for names; a line is a name and, in the Chinese edition, what it
    is for.
    """

    has_content = True

    def run(self) -> list[nodes.Node]:
        """The entries, one after the other."""
        lines = ["```{eval-rst}"]
        for row in filter(None, map(str.strip, self.content)):
            name, _, _words[name] = (
                part.strip() for part in row.partition(" ")
            )
            if not _words[name]:
                del _words[name]
            thing = find(name)
            if type(thing) is GenericAlias:
                kind, options = "data", ["   :no-value:"]
            elif inspect.isclass(thing):
                kind, options = "class", ["   :members:"]
            else:
                kind, options = "function", []
            lines += [f".. auto{kind}:: {PACKAGE}.{name}", *options, ""]
        box = nodes.container(classes=["api"])
        self.state.nested_parse(
            StringList([*lines, "```"], source=self.env.docname),
            self.content_offset,
            box,
        )
        return [box]


class NameIndex(SphinxDirective):
    """A row for each section: the public names in its code, each leading to its
    entry.
    """

    def run(self) -> list[nodes.Node]:
        """A list of sections."""
        language = language_of(self.env.app)
        rows = nodes.bullet_list()
        for number, page in titles().items():
            text = nodes.paragraph()
            to_page = pending_xref(
                "",
                nodes.inline("", number),
                refdomain="std",
                reftype="doc",
                refexplicit=True,
                refdoc=self.env.docname,
                reftarget=f"/notebooks/{language}/{page}",
            )
            text += [
                to_page,
                nodes.Text("  "),
                *links_to(sorted(used_in(number)), self.env.docname, language),
            ]
            rows += nodes.list_item("", text)
        return [rows]


def links_to(names: list[str], page: str, language: str) -> list[nodes.Node]:
    """Links to the entries of names, with commas between them."""
    found: list[nodes.Node] = []
    for name in names:
        in_short = "." not in name or name.startswith("nas.")
        shown = f"mb.{name}" if in_short else f"{PACKAGE}.{name}"
        to_entry = pending_xref(
            "",
            nodes.literal("", shown),
            refdomain="py",
            reftype="obj",
            refexplicit=True,
            refwarn=True,
            refdoc=page,
            reftarget=f"{PACKAGE}.{name}",
        )
        found += [nodes.Text(WORDS[language]["comma"]), to_entry]
    return found[1:]


def end_of_a_section(app: Sphinx, doctree: nodes.document) -> None:
    """The names that a section uses, as links, behind its last paragraph."""
    page, language = app.env.docname, language_of(app)
    number = ".".join(Path(page).name.split("_")[:2])
    if not page.startswith("notebooks/") or not used_in(number):
        return
    line = nodes.paragraph("", WORDS[language]["here"], classes=["names-used"])
    line += [
        *links_to(sorted(used_in(number)), page, language),
        nodes.Text(WORDS[language]["stop"]),
    ]
    list(doctree.findall(nodes.section))[-1].append(line)


def setup(app: Sphinx) -> dict[str, bool]:
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")
    app.add_directive("names", Names)
    app.add_directive("name-index", NameIndex)
    # behind napoleon
    app.connect("autodoc-process-docstring", add_sections, priority=600)
    app.connect("doctree-read", end_of_a_section)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
