# SPDX-License-Identifier: MIT
"""Drawings of ideas: the two loops, an episode, the three families.

Used in chapter 2 of the book.

A drawing is SVG on a white panel of its own, so that it reads on a dark page
too. It is the same text each time, since notebooks are compared byte by byte;
letters are large enough for a telephone.
"""

from dataclasses import dataclass
from xml.sax.saxutils import escape

from metabook.book.figures import BLUE, GREEN, GREY, ORANGE, PURPLE

__all__ = ["Drawing", "episode", "taxonomy", "two_loops"]

INK, WIDTH = "#222222", 640


@dataclass(frozen=True)
class Drawing:
    """An SVG picture that a notebook shows where it is the value of a cell.

    Parameters
    ----------
    title : str
        What the picture is, for those who hear the page.
    height : int
        Of a picture that is 640 wide.
    parts : tuple of str
        SVG elements, drawn in this order.

    Examples
    --------
    >>> Drawing("a dot", 40, ('<circle cx="20" cy="20" r="4"/>',))
    Drawing(a dot)
    """

    title: str
    height: int
    parts: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Drawing({self.title})"

    def _repr_svg_(self) -> str:
        size = (
            f'width="{WIDTH}" height="{self.height}"'
            f' viewBox="0 0 {WIDTH} {self.height}"'
        )
        panel = (
            f'<rect x="1" y="1" width="{WIDTH - 2}" height="{self.height - 2}"'
            ' rx="14" fill="#ffffff" stroke="#dddddd"/>'
        )
        font = 'font-family="Helvetica, Arial, sans-serif" font-size="20"'
        body = "\n".join(
            (f"<title>{escape(self.title)}</title>", panel, *self.parts)
        )
        head = f'xmlns="http://www.w3.org/2000/svg" role="img" {size} {font}'
        return f"<svg {head}>\n{body}\n</svg>"


def two_loops() -> Drawing:
    """What learns within what: the inner loop learns one task, the outer loop
    learns what all tasks share.

    Examples
    --------
    >>> two_loops()  # doctest: +NORMALIZE_WHITESPACE
    Drawing(Two nested loops: the inner loop learns one task, the outer loop
    learns how)
    """
    parts = (
        _text(320, 34, "outer loop: learns how to learn", BLUE, bold=True),
        (
            '<rect x="22" y="58" width="596" height="266" rx="40" fill="none"'
            f' stroke="{BLUE}" stroke-width="3"/>'
        ),
        _head(460, 58, 1, BLUE),
        _head(180, 324, -1, BLUE),
        _text(94, 164, "θ", BLUE, size=34),
        _text(94, 194, "what all"),
        _text(94, 218, "tasks share"),
        _arrow(152, 174, 186, BLUE),
        (
            '<rect x="196" y="86" width="248" height="196" rx="28"'
            f' fill="#fdf3ec" stroke="{ORANGE}" stroke-width="3"/>'
        ),
        _head(330, 86, 1, ORANGE),
        _head(310, 282, -1, ORANGE),
        _text(320, 122, "inner loop:", ORANGE, bold=True),
        _text(320, 147, "learns one task", ORANGE, bold=True),
        _text(320, 192, "start from θ,"),
        _text(320, 218, "fit the support set"),
        _text(320, 252, "→ a predictor"),
        _arrow(450, 174, 484, BLUE),
        _text(548, 132, "loss on"),
        _text(548, 156, "the query"),
        _text(548, 180, "set: how"),
        _text(548, 204, "well was it"),
        _text(548, 228, "learned?"),
        _text(320, 309, "change θ, take other tasks", BLUE),
    )
    return Drawing(
        "Two nested loops: the inner loop learns one task, the outer loop"
        " learns how",
        344,
        parts,
    )


# three made-up characters, as lines through points of a unit square
CHARACTERS = (
    ("0.2,0.1 0.2,0.9 0.8,0.9", "0.2,0.5 0.7,0.3"),
    ("0.1,0.2 0.9,0.2 0.5,0.9", "0.5,0.2 0.5,0.6"),
    ("0.8,0.1 0.3,0.3 0.8,0.6 0.3,0.9", "0.1,0.6 0.4,0.6"),
)
HANDS = (
    "0.95 0.1 -0.1 0.9",
    "0.9 -0.15 0.1 0.95",
    "1 0.12 0.05 0.85",
    "0.85 -0.05 -0.12 1",
    "0.92 0.18 0 0.92",
)


def episode() -> Drawing:
    """A 3-way 2-shot episode with two queries a class.

    Examples
    --------
    >>> episode()  # doctest: +NORMALIZE_WHITESPACE
    Drawing(A 3-way 2-shot episode: a support set with labels, a query set
    without)
    """
    parts = [
        (
            '<rect x="18" y="16" width="320" height="312" rx="14"'
            f' fill="#eef5fa" stroke="{BLUE}" stroke-width="2"/>'
        ),
        (
            '<rect x="356" y="16" width="266" height="312" rx="14"'
            f' fill="#fdf3ec" stroke="{ORANGE}" stroke-width="2"/>'
        ),
        _text(178, 46, "support set", BLUE, bold=True),
        _text(489, 46, "query set", ORANGE, bold=True),
        _text(178, 314, "N = 3 classes, K = 2 shots"),
        _text(489, 314, "which class?"),
    ]
    for label, character in enumerate(CHARACTERS):
        y = 62 + 78 * label
        parts.append(_text(88, y + 42, f"class {label}"))
        parts += [
            _tile(x, y, character, HANDS[k]) for k, x in enumerate((150, 236))
        ]
    # queries in another order than the classes: nothing about their place gives
    # the answer away
    for i, label in enumerate((2, 0, 1, 1, 2, 0)):
        x, y = 396 + 104 * (i % 2), 62 + 78 * (i // 2)
        parts += [
            _tile(x, y, CHARACTERS[label], HANDS[2 + i % 3]),
            _text(x + 80, y + 42, "?", ORANGE, bold=True),
        ]
    return Drawing(
        "A 3-way 2-shot episode: a support set with labels, a query set"
        " without",
        344,
        tuple(parts),
    )


def taxonomy() -> Drawing:
    """The three families: what the outer and what the inner loop learns.

    Examples
    --------
    >>> taxonomy()
    Drawing(Three families of meta-learning, by what each loop does)
    """
    parts = [
        _text(400, 36, "outer loop", BLUE, bold=True),
        _text(400, 60, "learns:", BLUE, bold=True),
        _text(548, 36, "inner loop", ORANGE, bold=True),
        _text(548, 60, "learns by:", ORANGE, bold=True),
    ]
    families = (
        (
            "optimisation-based",
            "MAML",
            ("where to", "start"),
            ("gradient", "steps"),
            _valley,
        ),
        (
            "model-based",
            "architecture search",
            ("what network", "to use"),
            ("training", "it"),
            _graph,
        ),
        (
            "metric-based",
            "prototypical networks",
            ("what to", "compare"),
            ("averaging", "examples"),
            _stars,
        ),
    )
    for i, (family, example, outer, inner, icon) in enumerate(families):
        y = 78 + 88 * i
        parts.append(
            f'<rect x="14" y="{y}" width="612" height="78" rx="12"'
            ' fill="#f5f5f5"/>'
        )
        parts.append(icon(26, y + 11))
        parts += [
            _text(94, y + 34, family, bold=True, anchor="start"),
            _text(94, y + 60, example, GREY, anchor="start"),
        ]
        parts += [
            _text(400, y + 34 + 25 * j, line, BLUE)
            for j, line in enumerate(outer)
        ]
        parts += [
            _text(548, y + 34 + 25 * j, line, ORANGE)
            for j, line in enumerate(inner)
        ]
    return Drawing(
        "Three families of meta-learning, by what each loop does",
        352,
        tuple(parts),
    )


def _text(
    x: int,
    y: int,
    words: str,
    color: str = INK,
    size: int = 20,
    bold: bool = False,
    anchor: str = "middle",
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x}" y="{y}" fill="{color}" font-size="{size}"'
        f' text-anchor="{anchor}"{weight}>{escape(words)}</text>'
    )


def _head(x: int, y: int, way: int, color: str) -> str:
    """The head of an arrow that points right (1) or left (-1)."""
    return (
        f'<path d="M{x - 9 * way} {y - 9} L{x + 9 * way} {y}'
        f' L{x - 9 * way} {y + 9} Z" fill="{color}"/>'
    )


def _arrow(x: int, y: int, end: int, color: str) -> str:
    return (
        f'<path d="M{x} {y} H{end - 10}" stroke="{color}" stroke-width="3"/>'
        + _head(end - 9, y, 1, color)
    )


def _tile(x: int, y: int, character: tuple[str, ...], hand: str) -> str:
    """One drawing of a character, 64 x 64, distorted by this writer's matrix
    ``hand``.
    """
    lines = "".join(f'<polyline points="{points}"/>' for points in character)
    frame = (
        f'<rect x="{x}" y="{y}" width="64" height="64" rx="6" fill="#ffffff"'
        ' stroke="#cccccc"/>'
    )
    pen = (
        f'fill="none" stroke="{INK}" stroke-width="0.09" stroke-linecap="round"'
        ' stroke-linejoin="round"'
    )
    shift = f"translate({x + 12} {y + 12}) scale(40) matrix({hand} 0 0)"
    return f'{frame}<g transform="{shift}" {pen}>{lines}</g>'


def _valley(x: int, y: int) -> str:
    """A parabola and a step down."""
    curve = (
        f'<path d="M{x} {y + 2} Q{x + 28} {y + 102} {x + 56} {y + 2}"'
        f' fill="none" stroke="{GREY}" stroke-width="3"/>'
    )
    step = (
        f'<path d="M{x + 8} {y + 24} L{x + 25} {y + 48}" stroke="{ORANGE}"'
        ' stroke-width="3"/>'
    )
    start, end = _dot(x + 8, y + 24, BLUE), _dot(x + 27, y + 51, ORANGE, 5)
    return curve + step + start + end


def _graph(x: int, y: int) -> str:
    """A network in which one path was chosen."""
    spots = ((4, 28), (28, 8), (28, 48), (52, 28))
    lines = "".join(
        f'<path d="M{x + spots[a][0]} {y + spots[a][1]}'
        f' L{x + spots[b][0]} {y + spots[b][1]}"'
        f' stroke="{color}" stroke-width="3"/>'
        for a, b, color in (
            (0, 2, "#c4c4c4"),
            (2, 3, "#c4c4c4"),
            (0, 1, BLUE),
            (1, 3, BLUE),
        )
    )
    colors = (BLUE, BLUE, "#c4c4c4", BLUE)
    return lines + "".join(
        _dot(x + a, y + b, color)
        for (a, b), color in zip(spots, colors, strict=True)
    )


def _stars(x: int, y: int) -> str:
    """Two clouds of examples, each with its mean."""
    clouds = (((6, 8), (24, 4), (12, 26)), ((34, 50), (52, 44), (46, 28)))
    parts = [
        _dot(x + a, y + b, c, 5)
        for cloud, c in zip(clouds, (GREEN, PURPLE), strict=True)
        for a, b in cloud
    ]
    means = "".join(
        f"M{x + a - 7} {y + b} h14 M{x + a} {y + b - 7} v14 "
        for a, b in ((14, 13), (44, 41))
    )
    crosses = f'<path d="{means.strip()}" stroke="{INK}" stroke-width="3"/>'
    return "".join(parts) + crosses


def _dot(x: int, y: int, color: str, radius: int = 7) -> str:
    return f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{color}"/>'
