# SPDX-License-Identifier: MIT
"""Drawings: well-formed, the same each time, and legible on a telephone."""

import re
import xml.etree.ElementTree as ET

import pytest

from metabook.book import drawings

TELEPHONE = 360  # pixels


@pytest.mark.parametrize(
    "draw",
    [drawings.two_loops, drawings.episode, drawings.taxonomy],
    ids=lambda f: f.__name__,
)
def test_a_drawing_is_the_same_each_time_and_legible_on_a_telephone(draw):
    svg = draw()._repr_svg_()
    assert svg == draw()._repr_svg_()
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    assert root[0].tag.endswith("title")
    assert root[0].text
    _, _, width, height = map(int, root.get("viewBox").split())
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        size = int(text.get("font-size"))
        assert size * TELEPHONE / width >= 11, text.text
        length = 0.55 * size * len(text.text)  # roughly, of a sans-serif
        left = (
            float(text.get("x"))
            - {"start": 0, "middle": length / 2}[text.get("text-anchor")]
        )
        assert left >= 0, text.text
        assert left + length <= width, text.text
        assert size <= float(text.get("y")) <= height, text.text
    assert not re.search(r"\bid=|\d\.\d{4}", svg), (
        "no ids, and numbers are rounded"
    )
