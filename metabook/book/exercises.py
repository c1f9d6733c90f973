# SPDX-License-Identifier: MIT
"""Exercises that answer back, in both of the book's languages.

A check is a function from the reader's answer to a `Verdict`; ``...`` stands
for "not answered yet".
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

__all__ = ["Verdict", "exercise", "right", "wrong"]


@dataclass(frozen=True)
class Verdict:
    """What a check says.

    The book shows the language of the page around it; a notebook shows both.

    Attributes
    ----------
    ok : bool, optional
        ``None`` before there is an answer.
    en, zh : str

    Examples
    --------
    >>> right("It is even.", "它是偶数。")
    Right. It is even.
    答对了。它是偶数。
    """

    ok: bool | None
    en: str
    zh: str

    def __repr__(self) -> str:
        return f"{self.en}\n{self.zh}"

    def _repr_html_(self) -> str:
        words = "".join(
            f'<p lang="{lang}">{escape(text)}</p>'
            for lang, text in (("en", self.en), ("zh", self.zh))
        )
        return f'<div class="words">{words}</div>'


def right(en: str, zh: str) -> Verdict:
    """The answer is right, and why.

    Examples
    --------
    >>> right("It is even.", "它是偶数。").ok
    True
    """
    return Verdict(True, f"Right. {en}", f"答对了。{zh}")


def wrong(en: str, zh: str) -> Verdict:
    """The answer is not right, and where to look.

    Examples
    --------
    >>> wrong("Divide by two.", "除以二试试。").en
    'Not yet. Divide by two.'
    """
    return Verdict(False, f"Not yet. {en}", f"还不对。{zh}")


def exercise(check: Callable[[Any], Verdict]) -> Callable[[Any], Verdict]:
    """Make a check meet ``...`` with "not answered yet", and an answer that
    fails with its own error.

    Examples
    --------
    >>> @exercise
    ... def check(answer):
    ...     return (
    ...         right("It is even.", "它是偶数。")
    ...         if answer % 2 == 0
    ...         else wrong("Try 2.", "试试 2。")
    ...     )
    >>> print(check(...).en, check(4).en, check("a").ok)
    Not answered yet. Right. It is even. False
    """

    @functools.wraps(check)
    def checked(answer: Any) -> Verdict:
        if answer is ...:
            return Verdict(None, "Not answered yet.", "还没有作答。")
        try:
            return check(answer)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            return wrong(f"Your answer raised {what}", f"你的答案报错：{what}")

    return checked
