# SPDX-License-Identifier: MIT
"""Nothing of the document that the book grew out of is left out: each of its
parts has cells that treat it.
"""

import os
import re
from pathlib import Path

import pytest
import yaml
from api import titles

import notebooks as tool

ROOT = Path(__file__).resolve().parents[2]
MAP = yaml.safe_load(
    (Path(__file__).with_name("source_map.yml")).read_text("utf8")
)
# the parts of the document, section by section
KINDS = {"sentence", "bullet", "step", "formula", "listing"}
PARTS = {
    "1.1": 4,
    "1.2": 1,
    "2.1": 2,
    "2.2": 3,
    "3.1": 3,
    "3.2": 4,
    "3.3": 3,
    "4.1": 3,
    "4.2": 3,
    "5.1": 2,
    "5.2": 2,
}
SOURCE = (
    Path(
        os.environ.get("METABOOK_DATA") or ROOT.parent / "shared" / "data"
    ).parent
    / "source"
)


def ids(language, section):
    return {cell.id for cell in tool.read(language, titles()[section]).cells}


def test_every_part_of_the_document_has_its_entry():
    assert {section: len(entries) for section, entries in MAP.items()} == PARTS
    for section, entries in MAP.items():
        for entry in entries:
            assert set(entry) == {"kind", "phrase", "cells"}, section
            assert entry["kind"] in KINDS, entry["phrase"]
            assert len(entry["phrase"]) <= 30, "a few words, not the document"


@pytest.mark.parametrize("section", MAP)
def test_the_cells_are_there_in_both_languages(section):
    for entry in MAP[section]:
        assert entry["cells"], (
            f"tests/book/source_map.yml: which cells of {section} treat"
            f" {entry['phrase']!r}?"
        )
        for place in entry["cells"]:
            where, _, cell = place.rpartition("/")
            for language in ("en", "zh"):
                assert cell in ids(language, where or section), (
                    f"{section}: {language} has no cell {place}"
                )


@pytest.mark.skipif(
    not SOURCE.is_dir(), reason="the document does not lie beside the data"
)
def test_the_map_has_every_line_of_the_document():
    text = "\n".join(
        path.read_text("utf8") for path in sorted(SOURCE.glob("*.txt"))
    )
    sections = dict(
        re.findall(r"^### (\d\.\d) .*\n((?:(?!^##).*\n?)*)", text, re.M)
    )
    assert set(sections) == set(MAP)
    for section, body in sections.items():
        blocks = re.findall(
            r"```.*?```|\$\$.*?\$\$|^\S[^\n]*$", body, re.M | re.S
        )
        for block in blocks:
            assert any(e["phrase"] in block for e in MAP[section]), (
                f"{section}: {block}"
            )
        for entry in MAP[section]:
            assert any(entry["phrase"] in block for block in blocks), entry[
                "phrase"
            ]
