# SPDX-License-Identifier: MIT
"""The list of terms: complete in both languages, and used by the Chinese
edition where the English one uses it.
"""

import re

import pytest
from api import titles
from terms import FILE, dictionary, in_order, terms

import notebooks as tool

KEYS = {"en", "zh", "section", "check", "zh_check", "define"}
CHECKED = [term for term in terms() if "check" in term]
# a paper is called by its own title in both languages, and code is code
NOT_PROSE = re.compile(
    r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$"
    r"|\[[^]]*\]\(https?:[^)]*\)|\]\([^)]*\)|<[^>]*>",
    re.S,
)


def pattern(term):
    words = rf"{term['en']}s?" if term["check"] is True else term["check"]
    return re.compile(rf"(?<![\w-])(?:{words})(?![\w-])", re.I)


def test_every_term_is_complete():
    assert len({term["en"] for term in terms()}) == len(terms())
    assert len({term["zh"] for term in terms()}) == len(terms())
    for term in terms():
        assert set(term) <= KEYS, term["en"]
        assert term["section"] in titles(), term["en"]
        assert term["define"]["en"].endswith((".", ")")), term["en"]
        assert term["define"]["zh"].endswith(("。", "）")), term["en"]
        if "check" in term:
            pattern(term)


def test_the_glossary_is_in_order():
    english = [term["en"].lower() for term in in_order("en")]
    assert english == sorted(english)
    chinese = [term["zh"] for term in in_order("zh")]
    assert (
        chinese.index("查询集")
        < chinese.index("嵌入")
        < chinese.index("原型")
        < chinese.index("支持集")
    ), "by sound"


def test_the_search_knows_the_terms():
    assert {
        "支持集 100 n",
        "元学习 100 n",
        "内循环 100 n",
        "原型网络 100 n",
    } <= set(dictionary().splitlines())


@pytest.mark.parametrize("name", sorted(titles().values()))
def test_the_chinese_cell_uses_the_term_that_its_english_cell_uses(name):
    chinese = {cell.id: cell.source for cell in tool.read("zh", name).cells}
    wrong = []
    for cell in tool.read("en", name).cells:
        if cell.cell_type != "markdown":
            continue
        prose = NOT_PROSE.sub(" ", cell.source)
        for term in CHECKED:
            if (
                pattern(term).search(prose)
                and term.get("zh_check", term["zh"]) not in chinese[cell.id]
            ):
                wrong.append(f"{cell.id}: {term['en']!r} is {term['zh']!r}")
    assert not wrong, (
        f"in {name}, say it as {FILE.name} does, or change it there:\n"
        + "\n".join(wrong)
    )
