# SPDX-License-Identifier: MIT
"""The page of status is about the notebooks that there are, and none of them
takes longer than it may.
"""

import json

from status_page import FILE, code_digest, rows

import notebooks as tool

MEASURED = json.loads(FILE.read_text("utf8"))["notebooks"]


def test_what_was_measured_are_notebooks_of_the_book_and_none_takes_a_minute():
    assert set(MEASURED) <= set(tool.names()), "a notebook is gone: make status"
    for name, entry in MEASURED.items():
        assert 0 < entry["core_seconds"] < 60, name
        assert {"processor", "cores", "torch", "python", "date"} <= set(
            entry
        ), name


def test_the_table_has_every_notebook_and_says_what_changed_since():
    for language, changed, none in (
        ("en", "code changed since", "not measured"),
        ("zh", "有改动", "尚未测量"),
    ):
        _, *table = rows(language)
        assert len(table) == len(tool.names())
        for row, name in zip(table, tool.names(), strict=True):
            assert (none in row[1]) == (name not in MEASURED)
            stale = name in MEASURED and MEASURED[name]["code"] != code_digest(
                name
            )
            assert (changed in row[-1]) == stale, name
