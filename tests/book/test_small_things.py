# SPDX-License-Identifier: MIT
"""Verdicts in two languages, the language of a page, and results on disk."""

import json
import math

import pytest

import metabook as mb
from metabook.book import results
from metabook.book.exercises import Verdict
from metabook.book.language import language


def test_a_verdict_speaks_both_languages():
    verdict = Verdict(True, "x < 1 holds", "成立")
    assert repr(verdict) == "x < 1 holds\n成立"
    html = verdict._repr_html_()
    assert '<p lang="en">x &lt; 1 holds</p>' in html
    assert '<p lang="zh">成立</p>' in html


def test_a_language_without_an_edition_is_refused_and_nothing_changes():
    before = language()
    with pytest.raises(ValueError, match="'fr'; the book is in 'en' and 'zh'"):
        language("fr")
    assert language() == before
    try:
        assert language("zh") == language() == "zh"
    finally:
        language(before)


def test_a_result_is_written_with_its_environment_and_without_infinities(
    tmp_path,
):
    found = {"command": "python toss.py", "heads": math.inf, "rows": [math.nan]}
    path = results.save("coin", found, tmp_path)
    assert path == tmp_path / "coin.json"
    saved = json.loads(path.read_text("utf8"))
    assert saved["heads"] is None and saved["rows"] == [None]
    assert {"processor", "torch", "python", "date"} <= set(saved["environment"])


def test_varied_tasks_say_what_they_are(images):
    tasks = mb.VariedTasks(images, way=(2, 3), shot=(1, 4), query=2, seed=7)
    assert repr(tasks).startswith(
        "VariedTasks(2 to 3-way, 1 to 4-shot, 2 queries, seed 7, "
    )
