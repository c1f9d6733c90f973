# SPDX-License-Identifier: MIT
"""The reference of the package: every public name has an entry in both
editions, an example, and its paper.
"""

import inspect
import re
import sys
from pathlib import Path

import api
import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = api.public_names()
HAN = re.compile(r"[一-鿿]")


def entries(language):
    """Name to words, of all pages of the reference in this language."""
    text = "".join(
        path.read_text("utf8")
        for path in sorted((ROOT / "book" / language).glob("api*.md"))
    )
    rows = [
        row.partition(" ")
        for block in re.findall(r"```\{names\}\n(.*?)```", text, re.S)
        for row in block.splitlines()
    ]
    assert len({name for name, _, _ in rows}) == len(rows), (
        "a name stands there twice"
    )
    return {name: words.strip() for name, _, words in rows}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_public_name_has_an_entry(language):
    shown = entries(language)
    missing, unknown = set(NAMES) - set(shown), set(shown) - set(NAMES)
    assert not missing, (
        f"give it a line in a {{names}} block of book/{language}/api_*.md:"
        f" {', '.join(sorted(missing))}"
    )
    assert not unknown, f"no such public name: {', '.join(sorted(unknown))}"
    assert all(
        bool(HAN.search(words)) == (language == "zh")
        for words in shown.values()
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_an_example_that_is_run(name):
    thing = api.find(name)
    # a type alias has no docstring of its own
    if callable(thing) and name != "nas.Architecture":
        doc = inspect.getdoc(thing) or ""
        assert re.search(r"^Examples\n-+\n(.*\n)*?>>> ", doc, re.M), (
            f"{name}: `make test` runs what stands behind >>>"
        )


@pytest.mark.parametrize("name", NAMES)
def test_what_comes_from_a_paper_says_which(name):
    """A module that is about a paper links to it, and so does every public name
    of that module.
    """
    thing = api.find(name)
    module = sys.modules.get(getattr(thing, "__module__", ""))
    # of such a module, and of no paper
    own = {
        "JointTraining",
        "nas.Architecture",
        "nas.proxies.multiply_adds",
    }
    if (
        module
        and name not in own
        and re.search(r"https://(arxiv|doi)", inspect.getdoc(module) or "")
    ):
        assert re.search(
            r"^References\n-+\n(.*\n)*?.*https://", inspect.getdoc(thing), re.M
        ), f"{name} names no paper"


def test_every_name_of_the_package_is_taught_somewhere():
    for name in NAMES:
        taught = api.taught_in(name)
        assert set(taught) <= set(api.titles()), name
        about_the_book = name.startswith((*api.FURNITURE, "testing."))
        assert taught or about_the_book, (
            f"say in the docstring of {name}'s module: Taught in section ..."
        )


def test_what_a_section_uses_is_read_from_its_code():
    assert {"MAML", "JointTraining", "Sinusoids", "train"} <= api.used_in("3.1")
    assert {
        "compute_prototypes",
        "metric.distances.squared_euclidean",
        "image_folder",
    } <= api.used_in("5.2")
    assert "MAML" not in api.used_in("5.2"), "the setup cell does not count"
