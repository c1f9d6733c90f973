# SPDX-License-Identifier: MIT
"""Labelled images, and splits that keep whole classes apart. Taught in section
2.1 of the book.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metabook.data.random import random_bits
from metabook.data.settings import described

__all__ = ["LabelledImages"]


class LabelledImages:
    """Images of many classes, sorted by class.

    Parameters
    ----------
    images : array or Tensor of uint8, (N, H, W) or (N, C, H, W)
        0 is background and 255 is full ink.
    labels : array of int, (N,)
        Class of each image, 0 to C - 1; every class has at least one image.
    names : sequence of str, optional
        Name of each class; its number unless given.
    groups : sequence of int, optional
        Classes of one group never part in a split, as the four rotations of one
        character. Each class is a group of its own unless given.
    partition : sequence of str, optional
        The data set's own split: ``"train"``, ``"valid"`` or ``"test"`` for
        each class.

    Attributes
    ----------
    counts, offsets : array of int64, (classes,)
        Class c is rows ``offsets[c]`` to ``offsets[c] + counts[c] - 1`` of
        ``images``.

    Examples
    --------
    >>> data = LabelledImages(
    ...     np.zeros((6, 28, 28), np.uint8),
    ...     [0, 1, 2, 0, 1, 2],
    ...     names=["a", "b", "c"],
    ... )
    >>> data
    LabelledImages(3 classes, 6 images of 1 x 28 x 28)
    """

    def __init__(
        self,
        images: np.ndarray | Tensor,
        labels: Sequence[int] | np.ndarray,
        names: Sequence[str] | None = None,
        groups: Sequence[int] | np.ndarray | None = None,
        partition: Sequence[str] | None = None,
    ) -> None:
        images, labels = torch.as_tensor(images), np.asarray(labels)
        if images.dtype != torch.uint8 or images.dim() not in (3, 4):
            raise ValueError(
                f"images are {images.dtype} of shape {tuple(images.shape)};"
                " they must be uint8, (N, H, W) or (N, C, H, W), with 0 for"
                " background and 255 for full ink"
            )
        if labels.shape != (len(images),):
            raise ValueError(
                f"{len(images)} images but labels of shape {labels.shape};"
                " there is one label an image"
            )
        if len(labels) == 0:
            raise ValueError("there are no images")
        if labels.dtype.kind not in "iu" or labels.min() < 0:
            raise ValueError(
                f"labels are {labels.dtype}; they are class numbers, integers"
                " from 0"
            )
        classes = int(labels.max()) + 1
        self.counts = np.bincount(labels, minlength=classes).astype(np.int64)
        if not self.counts.all():
            raise ValueError(
                f"class {int(np.argmin(self.counts))} has no image; labels run"
                " from 0 without a gap"
            )
        order = np.argsort(labels, kind="stable")
        images = images[:, None] if images.dim() == 3 else images
        in_order = bool((order == np.arange(len(order))).all())
        self.images = images if in_order else images[torch.from_numpy(order)]
        self.offsets = np.concatenate(
            [[0], np.cumsum(self.counts)[:-1]]
        ).astype(np.int64)
        self.names = (
            [str(c) for c in range(classes)] if names is None else list(names)
        )
        self.groups = (
            np.arange(classes) if groups is None else np.asarray(groups)
        )
        self.partition = None if partition is None else list(partition)
        for name, values in (
            ("names", self.names),
            ("groups", self.groups),
            ("partition", self.partition),
        ):
            if values is not None and len(values) != classes:
                raise ValueError(f"{classes} classes but {len(values)} {name}")
        if self.partition is not None and len(
            {*zip(self.groups, self.partition, strict=True)}
        ) != len({*self.groups}):
            raise ValueError("the partition tears a group of classes apart")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.images.shape[1:]))
        return (
            f"LabelledImages({len(self.names)} classes, {len(self)} images of"
            f" {size})"
        )

    def settings(self) -> dict[str, Any]:
        """What tells these images from others: pixels and class sizes, not
        names.
        """
        return {
            "images": described(self.images),
            "counts": described(self.counts),
        }

    def pixels(self, rows: Tensor) -> Tensor:
        """The images at ``rows`` (any shape) as float32 in [0, 1], of shape
        ``rows.shape + (C, H, W)``.
        """
        chosen = self.images.index_select(
            0, rows.flatten()
        )  # many times faster than images[rows]
        return (
            chosen.view(*rows.shape, *self.images.shape[1:]).float().div_(255)
        )

    def subset(self, classes: Sequence[int] | np.ndarray) -> "LabelledImages":
        """The images of some classes, renumbered from 0 in the order given."""
        classes = np.asarray(classes)
        if len(classes) == 0:
            raise ValueError("a subset needs at least one class")
        if classes.dtype.kind not in "iu" or len(np.unique(classes)) != len(
            classes
        ):
            raise ValueError("a subset is a list of different class numbers")
        rows = np.concatenate(
            [self.offsets[c] + np.arange(self.counts[c]) for c in classes]
        )
        return LabelledImages(
            self.images[torch.from_numpy(rows)],
            np.repeat(np.arange(len(classes)), self.counts[classes]),
            [self.names[c] for c in classes],
            self.groups[classes],
            (
                None
                if self.partition is None
                else [self.partition[c] for c in classes]
            ),
        )

    def split(
        self, *fractions: float, seed: int = 0
    ) -> tuple["LabelledImages", ...]:
        """Split by class, so that no class (and no group of classes) is in two
        parts.

        Parameters
        ----------
        *fractions : float
            Share of the groups that each part gets, such as ``0.8, 0.1, 0.1``;
            their sum is at most 1. Without fractions: the data set's own train,
            validation and test classes.
        seed : int
            Which groups go where, when fractions are given.

        Raises
        ------
        ValueError
            If the data set has no split of its own and no fractions are given,
            or a part would be empty.

        Examples
        --------
        >>> import metabook as mb
        >>> [
        ...     len(part.names)
        ...     for part in mb.glyphs(classes=30, seed=0).split(0.8, 0.1, 0.1)
        ... ]
        [24, 3, 3]
        """
        if not fractions:
            if self.partition is None:
                raise ValueError(
                    "these images come without a split of their own: give"
                    " fractions, as .split(0.8, 0.2)"
                )
            own = np.asarray(self.partition)
            missing = [
                part
                for part in ("train", "valid", "test")
                if part not in self.partition
            ]
            if missing:
                raise ValueError(
                    f"the own split of these images has no {missing[0]!r}"
                    " class: give fractions"
                )
            return tuple(
                self.subset(np.flatnonzero(own == part))
                for part in ("train", "valid", "test")
            )
        if min(fractions) <= 0 or sum(fractions) > 1 + 1e-9:
            raise ValueError(
                f"fractions {fractions} must be positive and sum to at most 1"
            )
        groups = np.unique(self.groups)
        shuffled = groups[np.argsort(random_bits(seed, np.arange(len(groups))))]
        cuts = np.round(np.cumsum([0.0, *fractions]) * len(groups)).astype(int)
        parts = [shuffled[a:b] for a, b in itertools.pairwise(cuts)]
        if min(map(len, parts)) == 0:
            raise ValueError(
                f"{len(groups)} groups of classes are too few for fractions"
                f" {fractions}: a part is empty"
            )
        return tuple(
            self.subset(np.flatnonzero(np.isin(self.groups, part)))
            for part in parts
        )
