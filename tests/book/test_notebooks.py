# SPDX-License-Identifier: MIT
"""The rules that keep the text true. nbval compares outputs; these tests see
what nbval lets pass.
"""

import ast
import json
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import notebooks as tool

ROOT = Path(__file__).resolve().parents[2]

NAMES = tool.names()
EDITIONS = [(language, name) for language in ("en", "zh") for name in NAMES]
HAN = re.compile(r"[一-鿿]")
# what Colab would show raw
DIRECTIVE = re.compile(
    r"^\s*(?:`{3,}|:{3,})\{"
    r"|\{(?:eq|cite|ref|numref|doc|term|glue|prf)[\w:]*\}`",
    re.M,
)
MACHINE_PATH = re.compile(
    r"(?<![\w.:/])/(?:home|root|Users|tmp|work|mnt|private|content|opt)/[\w.-]+"
)


def cells(language, name, kind=None):
    return [
        c
        for c in tool.read(language, name).cells
        if kind in (None, c.cell_type)
    ]


def figures(language, name):
    """(index, cell) of code cells that show an image."""
    for i, cell in enumerate(cells(language, name)):
        kinds = {
            kind for o in cell.get("outputs", ()) for kind in o.get("data", {})
        }
        if kinds & {"image/png", "image/svg+xml"}:
            yield i, cell


def test_the_editions_have_the_same_notebooks():
    assert NAMES
    assert (
        sorted(p.stem for p in (ROOT / "notebooks" / "zh").glob("*.ipynb"))
        == NAMES
    )


@pytest.mark.parametrize(("language", "name"), EDITIONS)
def test_every_cell_was_executed_in_order_without_error_or_warning(
    language, name
):
    code = cells(language, name, "code")
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            assert output.get("name") != "stderr", (
                f"{cell.id}: {output.text[:200]}"
            )


@pytest.mark.parametrize(("language", "name"), EDITIONS)
def test_no_output_names_a_path_of_a_machine(language, name):
    for cell in cells(language, name, "code"):
        for output in cell.outputs:
            text = json.dumps({k: v for k, v in output.items() if k != "data"})
            text += json.dumps(
                {
                    k: v
                    for k, v in output.get("data", {}).items()
                    if not k.startswith("image/")
                }
            )
            assert not MACHINE_PATH.search(text), (
                f"{cell.id}: {MACHINE_PATH.search(text)}"
            )


@pytest.mark.parametrize(("language", "name"), EDITIONS)
def test_what_may_differ_is_marked_cell_by_cell_and_still_asserted(
    language, name
):
    code = cells(language, name, "code")
    marked = [
        c for c in code if "nbval-ignore-output" in c.metadata.get("tags", [])
    ]
    assert not any(
        "nbval-skip" in c.metadata.get("tags", [])
        or "raises-exception" in c.metadata.get("tags", [])
        for c in code
    )
    assert len(marked) < len(code) / 3, "marking is the exception"
    assert "nbval_ignore" not in json.dumps(tool.read(language, name).metadata)
    source = "\n".join(c.source for c in code)
    assert source.count("assert ") >= len(code) / 4, (
        "numbers in the text are asserted beside it"
    )


@pytest.mark.parametrize(("language", "name"), EDITIONS)
def test_colab_can_show_every_cell(language, name):
    for cell in cells(language, name, "markdown"):
        assert not DIRECTIVE.search(cell.source), (
            f"{cell.id}: a MyST directive or role"
        )
        assert not re.search(r"!\[[^]]*\]\((?!https)", cell.source), (
            f"{cell.id}: an image that Colab does not have"
        )


@pytest.mark.parametrize("name", NAMES)
def test_the_editions_share_cells_code_and_outputs(name):
    english, chinese = cells("en", name), cells("zh", name)
    assert [(c.cell_type, c.id) for c in english] == [
        (c.cell_type, c.id) for c in chinese
    ]
    for a, b in zip(english, chinese, strict=True):
        if a.cell_type == "code":
            assert a.source == b.source, a.id
            assert a.outputs == b.outputs, a.id
            assert a.metadata.get("tags") == b.metadata.get("tags"), a.id


@pytest.mark.parametrize("name", NAMES)
def test_no_chinese_cell_is_stale(name):
    assert tool.stale_cells(name) == [], (
        "bring these up to date: python tools/notebooks.py text zh NAME"
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_chinese_text_is_chinese_and_sets_cleanly(name):
    for cell in cells("zh", name, "markdown"):
        text = re.sub(
            r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)",
            "",
            cell.source,
            flags=re.S,
        )
        assert HAN.search(text), f"{cell.id} has no Chinese"
        # a line break inside a paragraph becomes a visible space between
        # Chinese characters
        assert not re.search(r"[一-鿿，。；：、]\n[一-鿿]", text), (
            f"{cell.id}: a paragraph is one line"
        )
        # emphasis that does not close, as **注意：**下文, leaves its asterisks
        # in the text
        inline = [
            t
            for block in MarkdownIt().parse(text)
            for t in block.children or []
        ]
        assert not any("*" in t.content for t in inline if t.type == "text"), (
            f"{cell.id}: an asterisk shows"
        )


@pytest.mark.parametrize(("language", "name"), EDITIONS)
def test_a_figure_has_alternative_text_and_a_caption(language, name):
    everything = cells(language, name)
    for i, cell in figures(language, name):
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        assert len(alt) > 10, f"{cell.id} has no alternative text"
        assert bool(HAN.search(alt)) == (language == "zh"), (
            f"{cell.id}: alternative text in the other language"
        )
        after = everything[i + 1]
        assert after.cell_type == "markdown", f"{cell.id}: no caption follows"
        first = after.source.splitlines()[0]
        assert re.fullmatch(r"\*[^*].*\*", first), (
            f"{cell.id}: the line after a figure is its caption, in italics"
        )


@pytest.mark.parametrize("name", NAMES)
def test_figures_and_code_carry_no_chinese_but_for_answers_to_readers(name):
    for cell in cells("en", name, "code"):
        if not cell.id.endswith("-check"):
            assert not HAN.search(cell.source), cell.id


@pytest.mark.parametrize(("language", "name"), EDITIONS)
def test_the_setup_cell_is_the_same_everywhere_and_names_the_repository(
    language, name
):
    first = cells(language, name, "code")[0]
    assert first.id == "setup"
    assert first.source == tool.setup_code()
    assert first.outputs == []
    assert "remove-cell" in first.metadata.tags
    assert f"git+{tool.address()}@" in first.source


@pytest.mark.parametrize("name", NAMES)
def test_every_exercise_has_its_parts_and_its_solution_is_checked(name):
    code = {c.id: c for c in cells("en", name)}
    numbers = [
        c.id
        for c in cells("en", name, "markdown")
        if re.fullmatch(r"ex-\d+", c.id)
    ]
    assert 3 <= len(numbers) <= 6
    for n, ident in enumerate(numbers, 1):
        assert ident == f"ex-{n}"
        assert re.fullmatch(
            rf"answer_{n} = \.\.\.", code[f"{ident}-stub"].source
        )
        check, solution = code[f"{ident}-check"], code[f"{ident}-solution"]
        assert f"@exercise\ndef check_{n}(answer):" in check.source
        assert check.source.rstrip().endswith(f"check_{n}(answer_{n})")
        assert "Not answered yet." in check.outputs[0]["data"]["text/plain"]
        assert "还没有作答。" in check.outputs[0]["data"]["text/html"]
        assert f"assert check_{n}(solution_{n}).ok" in solution.source
        assert "hide-cell" in solution.metadata.tags
        assert "hide-input" in check.metadata.tags, (
            "a check gives the answer away"
        )
        assert solution.metadata.cellView == check.metadata.cellView == "form"
        stored = {
            node.id
            for node in ast.walk(ast.parse(solution.source))
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        assert f"answer_{n}" not in stored, (
            "a solution never answers for the reader"
        )
        assert code[f"{ident}-solution-text"].source.startswith(
            "<details><summary>"
        )


@pytest.mark.parametrize(("language", "name"), EDITIONS)
def test_a_section_has_the_parts_that_every_section_has(language, name):
    text = [c.source for c in cells(language, name, "markdown")]
    number = name.split("_")[0] + "." + name.split("_")[1]
    assert text[0].startswith(f"# {number} "), "the document's own numbering"
    headings = [
        line
        for source in text
        for line in source.splitlines()
        if line.startswith("## ")
    ]
    wanted = {
        "en": ["## In short", "## Exercises", "## Further reading"],
        "zh": ["## 小结", "## 习题", "## 延伸阅读"],
    }
    assert [h for h in headings if h in wanted[language]] == wanted[language]
    facts = {
        "en": ("Before you start", "Afterwards", "minutes to read", "to run"),
        "zh": ("读之前", "读完", "分钟", "秒"),
    }
    assert all(word in text[0] for word in facts[language])


LISTINGS = {
    "5_1_maml_in_pytorch": """
def maml_update(model, loss, lr):
    grads = torch.autograd.grad(loss, model.parameters())
    fast_weights = list(
        map(lambda p: p[1] - lr * p[0], zip(grads, model.parameters()))
    )
    return fast_weights
""",
    "5_2_prototypes_in_pytorch": """
def compute_prototypes(support_x, support_y):
    prototypes = []
    for c in set(support_y):
        prototypes.append(support_x[support_y == c].mean(dim=0))
    return torch.stack(prototypes)
""",
}


@pytest.mark.parametrize("name", LISTINGS)
def test_the_documents_listing_is_there_to_the_letter(name):
    """But for one line break: the first one's third line has 88 columns in the
    document, and a page has 80.
    """
    code = {c.id: c.source for c in cells("en", name)}
    assert code["listing"] == LISTINGS[name].strip()


@pytest.mark.parametrize("name", NAMES)
def test_code_shown_as_the_packages_own_is_the_packages_own(name):
    """It comes from `source`, which reads the installed package; nothing is
    pasted.
    """
    for cell in cells("en", name, "code"):
        shown = [
            o["data"]["text/markdown"]
            for o in cell.outputs
            if "text/markdown" in o.get("data", {})
        ]
        assert bool(shown) == cell.source.startswith("source("), cell.id
        for text in shown:
            body = text.removeprefix("```python\n").removesuffix("\n```")
            package = "\n".join(
                p.read_text("utf8") for p in (ROOT / "metabook").rglob("*.py")
            )
            for line in filter(None, map(str.strip, body.splitlines())):
                assert line in package, f"{cell.id}: {line}"


@pytest.mark.parametrize(("language", "name"), EDITIONS)
def test_the_text_mentions_no_package_that_would_be_another(language, name):
    assert "pip install metabook" not in json.dumps(tool.read(language, name))
