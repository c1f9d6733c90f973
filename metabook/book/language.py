# SPDX-License-Identifier: MIT
"""The language of the page, named once: `language("zh")` in the cell after the
setup of a Chinese notebook.
"""

__all__ = ["language"]

LANGUAGES = ("en", "zh")
_chosen = "en"


def language(name: str | None = None) -> str:
    """The language of the page; with a name, set it first.

    Parameters
    ----------
    name : {"en", "zh"}, optional

    Raises
    ------
    ValueError
        If the book has no edition in this language.

    Examples
    --------
    >>> language()
    'en'
    """
    global _chosen
    if name is not None:
        if name not in LANGUAGES:
            raise ValueError(
                f"language is {name!r}; the book is in"
                f" {' and '.join(map(repr, LANGUAGES))}"
            )
        _chosen = name
    return _chosen
