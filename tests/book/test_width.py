# SPDX-License-Identifier: MIT
"""A page has 80 columns, and cuts what is wider."""

from pathlib import Path
from unicodedata import east_asian_width

import pytest
import yaml
from markdown_it import MarkdownIt

import notebooks as tool

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("en", "zh")
NAMES = tool.names()
PAGES = [*(ROOT / "book").glob("*/*.md"), *ROOT.glob("*.md")]

# cells that are still too wide, by notebook: this list only gets shorter
WIDE = yaml.safe_load(
    (ROOT / "tests" / "book" / "wide_cells.yml").read_text("utf8")
)


def columns(line):
    """A Chinese character takes two."""
    return sum(2 if east_asian_width(c) in "WF" else 1 for c in line)


def too_wide(text):
    return [line for line in text.splitlines() if columns(line) > 80]


def fenced(markdown):
    """Code in fences, but for MyST's directives, which begin with a brace."""
    for token in MarkdownIt().parse(markdown):
        if token.type == "fence" and not token.info.startswith("{"):
            yield token.content


def code_cells(language, name):
    cells = tool.read(language, name).cells
    return [cell for cell in cells if cell.cell_type == "code"]


@pytest.mark.parametrize(
    ("line", "width"), [("a b", 3), ("中文", 4), ("“é” √ —", 7), ("，。", 4)]
)
def test_a_chinese_character_takes_two_columns(line, width):
    assert columns(line) == width


@pytest.mark.parametrize("name", NAMES)
def test_code_cells_have_80_columns_but_for_those_on_the_list(name):
    wide = {
        cell.id: too_wide(cell.source)
        for language in LANGUAGES
        for cell in code_cells(language, name)
        if too_wide(cell.source)
    }
    listed = WIDE.get(name, [])
    new = {ident: wide[ident] for ident in wide if ident not in listed}
    assert not new, "break these lines"
    done = [ident for ident in listed if ident not in wide]
    assert not done, f"remove from wide_cells.yml, under {name}: {done}"


def test_the_list_names_notebooks_that_there_are():
    assert set(WIDE) <= set(NAMES)
    assert all(WIDE.values()), "a notebook without wide cells leaves the list"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", NAMES)
def test_code_that_a_notebook_shows_has_80_columns(language, name):
    for cell in code_cells(language, name):
        for output in cell.outputs:
            shown = output.get("data", {}).get("text/markdown", "")
            for code in fenced(shown):
                assert not too_wide(code), cell.id


@pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: str(page.relative_to(ROOT))
)
def test_code_on_a_page_has_80_columns(page):
    for code in fenced(page.read_text("utf8")):
        assert not too_wide(code)
