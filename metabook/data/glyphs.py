# SPDX-License-Identifier: MIT
"""Procedural handwriting: an offline stand-in for Omniglot, drawn by numpy.

A class is one to four smooth strokes; an instance jitters their control points,
bends the whole by a small affine map, and picks a pen width. Every number is a
function of (seed, class, instance), so the first hundred classes are the same
whether a hundred or a thousand are asked for. Taught in section 5.2 of the
book.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metabook.data.images import LabelledImages
from metabook.data.random import (
    check_seed,
    random_bits,
    random_normal,
    random_uniform,
)

__all__ = ["glyphs"]

Floats = NDArray[np.floating]

STROKES, POINTS = 4, 6  # at most, a class and a stroke
STROKE_SHARES = (0.22, 0.36, 0.27, 0.15)  # of classes with 1, 2, 3, 4 strokes
SAMPLES = 48  # points along a drawn stroke
BLOCK = 64  # classes drawn at once: bounds memory


@dataclass(frozen=True)
class _Classes:
    """The skeletons of B classes, in a box of side 1."""

    points: Floats  # (B, strokes, points, 2)
    # (B, strokes): control points of each stroke, 0 where there is no stroke
    lengths: NDArray[np.int64]


def glyphs(
    classes: int = 1000, *, examples: int = 20, size: int = 28, seed: int = 0
) -> LabelledImages:
    """Draw a data set of procedural handwriting.

    Parameters
    ----------
    classes, examples : int
        Characters, and drawings of each.
    size : int
        Side of the images in pixels.
    seed : int
        Another seed, another alphabet.

    Returns
    -------
    LabelledImages
        uint8, (classes * examples, 1, size, size).

    Raises
    ------
    ValueError
        If a number is too small, or the seed is no integer from 0.

    Examples
    --------
    >>> glyphs(classes=3, examples=2, seed=0)
    LabelledImages(3 classes, 6 images of 1 x 28 x 28)
    """
    for name, value, least in (
        ("classes", classes, 1),
        ("examples", examples, 1),
        ("size", size, 8),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    check_seed(seed)
    blocks = []
    for first in range(0, classes, BLOCK):
        seeds = random_bits(seed, np.arange(first, min(first + BLOCK, classes)))
        strokes, weights, pens = _instances(_skeletons(seeds), seeds, examples)
        blocks.append(_render(strokes, weights, pens, size))
    labels = np.repeat(np.arange(classes), examples)
    return LabelledImages(
        np.concatenate(blocks),
        labels,
        names=[f"glyph {seed}-{c}" for c in range(classes)],
    )


def _skeletons(seeds: NDArray[np.uint64]) -> _Classes:
    """Invent a character for each seed: walks that keep turning one way."""
    b = len(seeds)
    strokes = 1 + np.searchsorted(
        np.cumsum(STROKE_SHARES)[:-1], random_uniform(seeds, 0)
    )
    stroke = np.arange(STROKES)
    key = random_bits(seeds[:, None], 1, stroke)  # (B, strokes)
    more = random_uniform(key, 0) ** 0.8 * (POINTS - 1)
    lengths = 2 + more.astype(np.int64)
    lengths[stroke >= strokes[:, None]] = 0

    compass = np.floor(random_uniform(key, 1) * 8) * (np.pi / 4)
    compass += 0.12 * random_normal(key, 2)
    anywhere = 2 * np.pi * random_uniform(key, 4)
    heading = np.where(random_uniform(key, 3) < 0.75, compass, anywhere)
    # radians a step, constant along a stroke: arcs and loops
    turn = 0.75 * random_normal(key, 5)
    # many points: short steps
    step = (0.9 + 0.5 * random_uniform(key, 6)) / np.maximum(lengths, 3)

    points = np.zeros((b, STROKES, POINTS, 2))
    for s in range(STROKES):
        k = key[:, s]
        start = np.stack([random_uniform(k, 7), random_uniform(k, 8)], axis=-1)
        if s > 0:  # more often than not a later stroke starts on an earlier one
            earlier = (random_uniform(k, 9) * s).astype(np.int64)
            last = np.maximum(lengths[np.arange(b), earlier] - 1, 1)
            at = random_uniform(k, 10) * last
            low, share = np.floor(at).astype(np.int64), (at % 1)[:, None]
            on = (
                points[np.arange(b), earlier, low] * (1 - share)
                + points[np.arange(b), earlier, low + 1] * share
            )
            start = np.where((random_uniform(k, 11) < 0.55)[:, None], on, start)
        points[:, s, 0] = start
        for p in range(1, POINTS):
            angle = (
                heading[:, s] + p * turn[:, s] + 0.25 * random_normal(k, 12, p)
            )
            move = step[:, s, None] * np.stack(
                [np.cos(angle), np.sin(angle)], axis=-1
            )
            there = points[:, s, p - 1] + move
            # reflect at the walls of the box
            points[:, s, p] = 1 - np.abs(1 - np.abs(there))
    return _Classes(_fill_the_box(points, lengths), lengths)


def _fill_the_box(points: Floats, lengths: NDArray[np.int64]) -> Floats:
    """Centre each character and scale its longer side to 1."""
    real = (np.arange(POINTS) < lengths[:, :, None])[..., None]
    low = np.where(real, points, np.inf).min(axis=(1, 2), keepdims=True)
    high = np.where(real, points, -np.inf).max(axis=(1, 2), keepdims=True)
    extent = np.maximum((high - low).max(axis=-1, keepdims=True), 0.2)
    filled: Floats = (points - (low + high) / 2) / extent
    return filled


def _instances(
    classes: _Classes, seeds: NDArray[np.uint64], examples: int
) -> tuple[Floats, Floats, Floats]:
    """Draw each class several times.

    Returns
    -------
    strokes : (B * examples, strokes * SAMPLES, 2)
        Points along the strokes, in a box of side 1 about the origin.
    weights : (B * examples, strokes * SAMPLES)
        Length of stroke that each point stands for; 0 where there is no stroke.
    pens : (B * examples,)
        Half-width of the pen.
    """
    # one for each drawing
    key = random_bits(seeds[:, None], 2, np.arange(examples)).reshape(-1)
    points = np.repeat(classes.points, examples, axis=0)
    lengths = np.repeat(classes.lengths, examples, axis=0)
    n = len(key)
    numbers = np.arange(STROKES * (POINTS + 1) * 2)
    noise = random_normal(key[:, None], numbers)
    noise = noise.reshape(n, STROKES, POINTS + 1, 2)
    # each point, then each stroke
    points = (
        points + 0.036 * noise[:, :, :POINTS] + 0.032 * noise[:, :, POINTS:]
    )
    curve = _catmull_rom(points, lengths)  # (n, strokes, SAMPLES, 2)

    g = random_normal(key[:, None], 1000 + np.arange(6)).T
    cos, sin = np.cos(0.17 * g[0]), np.sin(0.17 * g[0])
    sx, sy, shear = np.exp(0.2 * g[1]), np.exp(0.2 * g[2]), 0.17 * g[3]
    # rotation x shear x scale; row vectors are multiplied from the left
    matrix = np.stack(
        [
            np.stack([cos * sx, sin * sx]),
            np.stack([(cos * shear - sin) * sy, (sin * shear + cos) * sy]),
        ]
    )
    curve = (
        curve @ np.moveaxis(matrix, -1, 0)[:, None]
        + 0.09 * g[4:].T[:, None, None, :]
    )

    pieces = np.sqrt((np.diff(curve, axis=2) ** 2).sum(axis=-1))
    weights = np.concatenate(
        [
            pieces[..., :1],
            (pieces[..., 1:] + pieces[..., :-1]) / 2,
            pieces[..., -1:],
        ],
        axis=2,
    )
    # a stroke of length zero is still a dot
    weights = (weights + 1e-4) * (lengths > 0)[:, :, None]
    pens = 0.026 * np.exp(0.2 * random_normal(key, 1006))
    return curve.reshape(n, -1, 2), weights.reshape(n, -1), pens


def _catmull_rom(points: Floats, lengths: NDArray[np.int64]) -> Floats:
    """A smooth curve through the control points:
    (n, strokes, points, 2) -> (n, strokes, SAMPLES, 2).
    """
    last = np.maximum(lengths - 1, 1)[..., None]
    # (n, strokes, SAMPLES), in units of control points
    at = np.linspace(0, 1, SAMPLES) * last
    i = np.minimum(at.astype(np.int64), last - 1)
    t = (at - i)[..., None]

    def point(j: NDArray[np.int64]) -> Floats:
        return np.take_along_axis(
            points, np.clip(j, 0, last)[..., None], axis=2
        )

    p0, p1, p2, p3 = point(i - 1), point(i), point(i + 1), point(i + 2)
    a = 3 * p1 - 3 * p2 + p3 - p0
    b = 2 * p0 - 5 * p1 + 4 * p2 - p3
    curve: Floats = 0.5 * (2 * p1 + t * (p2 - p0 + t * (b + t * a)))
    return curve


def _render(
    strokes: Floats, weights: Floats, pens: Floats, size: int
) -> NDArray[np.uint8]:
    r"""Ink where the distance to the nearest stroke is below the pen's
    half-width, antialiased.

    The distance is a soft minimum,

        d^2 = -2 s^2 log sum_k w_k exp(-|x - p_k|^2 / 2 s^2) / s.

    The exponential separates into one factor for each axis, so a batch of
    images is one batched matrix product.
    """
    scale, s = 0.7, 0.018  # share of the image that the box fills; softness
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    p = (scale * strokes).astype(np.float32)
    # (n, K, size)
    across, down = (
        np.exp(-((grid - p[:, :, axis, None]) ** 2) / (2 * s * s))
        for axis in (0, 1)
    )
    w = (scale * weights / s).astype(np.float32)
    # (n, size, size)
    field = (down * w[:, :, None]).transpose(0, 2, 1) @ across
    distance = np.sqrt(
        np.maximum(-2 * s * s * np.log(np.maximum(field, 1e-30)), 0)
    )
    half_width = scale * pens[:, None, None].astype(np.float32)
    ink = np.clip((half_width - distance) * size + 0.5, 0, 1)
    pixels: NDArray[np.uint8] = np.round(255 * ink).astype(np.uint8)
    return pixels
