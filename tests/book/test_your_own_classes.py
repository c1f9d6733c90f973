# SPDX-License-Identifier: MIT
"""The page "Your own classes in fifteen lines": its program runs, and its
messages are those that people meet.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import metabook as mb
from metabook.book import results

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    language: (
        (ROOT / "book" / language / "your_own_classes.md").read_text("utf8")
    )
    for language in ("en", "zh")
}


def program(language):
    (block,) = re.findall(r"```python\n(.*?)```", PAGES[language], re.S)
    return block


@pytest.fixture
def drawings(tmp_path, monkeypatch):
    """Three signs, black on white, drawn unequally often, and two new drawings
    of the first.
    """
    monkeypatch.chdir(tmp_path)
    signs = mb.glyphs(classes=3, examples=6, seed=9)
    (tmp_path / "new").mkdir()
    for c, (name, count) in enumerate(
        [("anchor", 4), ("bridge", 1), ("candle", 2)]
    ):
        (tmp_path / "drawings" / name).mkdir(parents=True)
        for i in range(count):
            save(
                signs.images[6 * c + i, 0],
                tmp_path / "drawings" / name / f"{i}.png",
            )
    for i in (4, 5):
        save(signs.images[i, 0], tmp_path / "new" / f"{i}.png")
    return tmp_path


def save(ink, path):
    Image.fromarray(255 - np.asarray(ink)).resize((100, 100)).save(path)


def test_the_program_has_fifteen_lines_and_is_the_same_in_both_editions():
    assert program("en") == program("zh")
    assert (
        len([line for line in program("en").splitlines() if line.strip()]) <= 15
    )


def test_the_program_names_every_new_drawing(drawings, capsys):
    shorter = (
        program("en")
        .replace("practice, 500,", "practice, 30,")
        .replace("classes=1000", "classes=60")
    )
    exec(compile(shorter, "your_own_classes", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["4.png", "5.png"]
    assert all(
        line.split()[1] in ("anchor", "bridge", "candle") for line in lines
    )
    assert (drawings / "glyph_net" / "last.pt").exists(), (
        "the second time it starts at once"
    )


def test_the_messages_on_the_page_are_those_of_the_package(drawings):
    quoted = re.findall(r"^\| `([^`]+)` \|", PAGES["en"], re.M)
    assert quoted == re.findall(r"^\| `([^`]+)` \|", PAGES["zh"], re.M)
    messages = []
    folder = drawings / "drawings"

    def complain():
        # the messages are compared below
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            mb.image_folder("drawings")
        messages.append(str(caught.value))

    (folder / "anchor" / "0.png").rename(folder / "1.png")
    complain()
    (folder / "1.png").unlink()
    (folder / "bridge" / "0.png").unlink()
    complain()
    (folder / "bridge").rmdir()
    for file in (folder / "candle").iterdir():
        file.unlink()
    (folder / "candle").rmdir()
    complain()
    for text in quoted:
        assert any(text in message for message in messages), text


def test_what_the_page_says_of_its_table_is_so():
    accuracy = {
        (kind, shot): {who: value["accuracy"] for who, value in found.items()}
        for kind, shots in results.load("own_classes")["measured"].items()
        for shot, found in shots.items()
    }
    drawn = accuracy["as_drawn", "1_shot"]["network"]
    five = accuracy["as_drawn", "5_shot"]["network"]
    assert drawn - accuracy["on_grey_paper", "1_shot"][
        "network"
    ] == pytest.approx(13, abs=0.5)
    assert drawn - accuracy["on_a_large_sheet", "1_shot"][
        "network"
    ] == pytest.approx(22, abs=0.5)
    assert 100 / (100 - five) == pytest.approx(17, abs=0.5)
    digits = accuracy["digits", "1_shot"]
    assert digits["pixels"] > digits["network"] + 5
