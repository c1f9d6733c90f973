# SPDX-License-Identifier: MIT
"""One style for every figure of the book, and the drawings that several
sections share.
"""

import inspect
import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "Listing",
    "Timeline",
    "book_style",
    "show_images",
    "source",
]

# Okabe & Ito: distinguishable with any colour vision
# (https://jfly.uni-koeln.de/color/)
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, GREY = "#CC79A7", "#767676"


def book_style() -> None:
    """Set matplotlib's defaults to the book's: wide enough to read on a phone,
    no frame where none is needed.

    Examples
    --------
    >>> import matplotlib as mpl
    >>> with mpl.rc_context():  # afterwards everything is as it was
    ...     book_style()
    ...     mpl.rcParams["font.size"]
    12.0
    """
    import matplotlib as mpl
    from matplotlib.rcsetup import cycler

    colors = [BLUE, ORANGE, GREEN, PURPLE, GREY]
    mpl.rcParams.update(
        {
            "figure.figsize": (6.4, 3.6),
            "figure.dpi": 100,
            "savefig.dpi": 100,
            "font.size": 12,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": cycler(color=colors),
            "lines.linewidth": 2,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
        }
    )


def show_images(
    ax: "Axes",
    images: Tensor,
    titles: Sequence[str] | None = None,
    colors: Sequence[str] | None = None,
) -> None:
    """Draw small images side by side as ink on paper, a word below each.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    images : Tensor, (N, H, W)
        Between 0, paper, and 1, ink.
    titles, colors : sequence of str, optional
        N words and their colours.

    Examples
    --------
    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> show_images(ax, torch.rand(3, 28, 28), ["a", "b", "c"])
    >>> strip = ax.images[0].get_array()
    >>> strip.shape  # with four columns of paper between two images
    (28, 92)
    """
    n, height, width = images.shape
    gap = 4
    strip = np.ones((height, n * (width + gap) - gap))
    left = [i * (width + gap) for i in range(n)]
    for x, image in zip(left, images, strict=True):
        strip[:, x : x + width] = 1 - image.numpy()
    ax.imshow(strip, cmap="gray", vmin=0, vmax=1)
    ax.set_xticks([x + width / 2 for x in left], titles or [""] * n)
    ax.set_yticks([])
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    for label, color in zip(
        ax.get_xticklabels(), colors or ["black"] * n, strict=True
    ):
        label.set_color(color)


@dataclass(frozen=True)
class Listing:
    """Python code, which a notebook colours where it is the value of a cell.

    Attributes
    ----------
    code : str

    Examples
    --------
    >>> Listing("print(2 + 3)")
    print(2 + 3)
    """

    code: str

    def __repr__(self) -> str:
        return self.code

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.code}\n```"


def source(*things: Callable[..., Any]) -> Listing:
    """The package's own code of some functions or methods, without their
    docstrings, for a notebook to show.

    Parameters
    ----------
    *things : function or method

    Returns
    -------
    Listing

    Examples
    --------
    >>> import metabook as mb
    >>> source(mb.nas.RandomSearch.ask)
    def ask(self) -> Architecture:
        return self.space.random(self.rng)
    """
    parts = []
    for thing in things:
        code = textwrap.dedent(inspect.getsource(thing))
        if thing.__doc__:
            start = code.index('"""')
            end = code.index('"""', start + 3) + 3
            code = code[: code.rindex("\n", 0, start)] + code[end:]
        parts.append(code.rstrip())
    return Listing("\n\n\n".join(parts))


class Timeline:
    """The history of the field from one file for both languages: a figure, and
    a list with links.

    Shown as the value of a cell it is the list, in the language of the page
    around it; `draw` makes the figure.

    Attributes
    ----------
    entries : list of dict
        In the order of time: ``year``, ``who``, ``what`` (for the figure),
        ``link``, and a sentence in ``en`` and ``zh``.

    Examples
    --------
    >>> Timeline().entries[0]["year"]
    1987
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = json.loads(
            (files("metabook.book") / "timeline.json").read_text("utf8")
        )

    def __repr__(self) -> str:
        return "\n".join(
            f"{e['year']}  {e['who']}: {e['en']}" for e in self.entries
        )

    def _repr_html_(self) -> str:
        def items(lang: str) -> str:
            return "".join(
                f'<li>{e["year"]}, <a href="{escape(e["link"])}">'
                f"{escape(e['who'])}</a>: {escape(e[lang])}</li>"
                for e in self.entries
            )

        return (
            '<div class="words">'
            + "".join(f'<ul lang="{k}">{items(k)}</ul>' for k in ("en", "zh"))
            + "</div>"
        )

    def draw(self, ax: "Axes") -> None:
        """Draw an axis of years, and beside it the entries, as evenly as they
        can stand.
        """
        years = [e["year"] for e in self.entries]
        first, last = years[0], years[-1]
        rows = np.linspace(first, last, len(years))
        ax.plot([0, 0], [first - 1, last + 1], color=GREY, linewidth=1)
        for row, entry in zip(rows, self.entries, strict=True):
            ax.plot(
                [0, 0.6, 0.8],
                [entry["year"], row, row],
                color="#c8c8c8",
                linewidth=1,
                zorder=0,
            )
            ax.plot(0, entry["year"], "o", color=BLUE, markersize=5)
            ax.text(
                0.9,
                row,
                f"{entry['year']}  {entry['what']}",
                va="center",
                fontsize=11,
            )
        ax.set(
            xlim=(-0.1, 5),
            ylim=(last + 1.5, first - 1.5),
            xticks=[],
            yticks=range(1990, last + 1, 5),
        )
        ax.spines["bottom"].set_visible(False)
        ax.spines["left"].set_visible(False)
