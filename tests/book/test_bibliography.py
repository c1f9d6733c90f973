# SPDX-License-Identifier: MIT
"""One bibliography: what is cited has an entry, and the reverse."""

import pytest
from bibliography import PAPER, citations, link_of, papers

HOW = """
Each link to a paper needs an entry in book/references.bib. Open the paper,
check title, authors and year there, and add

@inproceedings{{finn2017,
  author = {{Finn, Chelsea and Abbeel, Pieter and Levine, Sergey}},
  title = {{Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks}},
  booktitle = {{ICML}}, year = {{2017}}, url = {{THE LINK}}}}

Missing:
{}"""


def test_every_paper_that_is_cited_has_an_entry():
    known = {link_of(entry.fields["url"]) for entry in papers().values()}
    missing = {
        link: where for link, where in citations().items() if link not in known
    }
    assert not missing, HOW.format(
        "\n".join(
            f"https://{link}  cited in {', '.join(w)}"
            for link, w in missing.items()
        )
    )


@pytest.mark.parametrize("key", papers())
def test_an_entry_is_complete_and_cited(key):
    entry = papers()[key]
    assert {"title", "year", "url"} <= set(entry.fields), key
    assert entry.persons["author"], key
    assert entry.fields["url"].startswith("https://"), key
    assert citations().get(link_of(entry.fields["url"])), (
        f"nothing cites {key}: delete it, or cite it by its url"
    )


def test_no_paper_has_two_entries():
    links = [link_of(entry.fields["url"]) for entry in papers().values()]
    assert len(set(links)) == len(links)


def test_one_paper_is_recognised_behind_two_ways_of_linking_to_it():
    for link in (
        "http://arxiv.org/abs/1703.03400v3",
        "https://arxiv.org/pdf/1703.03400.pdf",
        "https://www.arxiv.org/abs/1703.03400.",
    ):
        assert link_of(link) == "arxiv.org/abs/1703.03400"
    assert PAPER.findall(
        "see (https://doi.org/10.1126/science.aab3050), and"
    ) == ["https://doi.org/10.1126/science.aab3050"]
