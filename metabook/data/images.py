# SPDX-License-Identifier: MIT
"""Labelled examples, images above all, and splits that keep whole classes
apart. Taught in section 2.1 of the book.
"""

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabook.data.arrays import as_classes, as_examples
from metabook.data.settings import described
from metabook.data.splits import classes_of_parts, rows_of_parts

__all__ = ["LabelledImages"]

Integers = NDArray[np.int64]
Self = TypeVar("Self", bound="LabelledImages")


class LabelledImages:
    """Examples of many classes, sorted by class: images, but also signals,
    feature vectors or tokens.

    Parameters
    ----------
    images : array or Tensor, (N, ...)
        One example a row. uint8 are pixels, (N, H, W) or (N, C, H, W), with 0
        for background and 255 for full ink. Floats of any shape, such as
        signals (N, C, L) or vectors (N, D), and integers (int32 or int64), such
        as tokens (N, L), are handed on as they are.
    labels : sequence of int or str, (N,)
        Class of each example. The different labels, in ascending order, are
        classes 0 to C - 1.
    names : sequence of str, optional
        Name of each class, in that order; its label unless given.
    groups : sequence of int, optional
        Classes of one group never part in `split`, as the four rotations of one
        character. Each class is a group of its own unless given.
    partition : sequence of str, optional
        The data set's own split: ``"train"``, ``"valid"`` or ``"test"`` for
        each class.

    Attributes
    ----------
    images : Tensor, (N, ...)
        The examples, sorted by class. A subclass keeps its own here too, so
        that its parts have theirs.
    labels : Tensor of int64, (N,)
        The class of each, 0 to C - 1.
    counts, offsets : array of int64, (classes,)
        Class c is rows ``offsets[c]`` to ``offsets[c] + counts[c] - 1`` of
        ``images``.

    Raises
    ------
    ValueError
        If examples are of another kind or not finite, or labels, names, groups
        or the partition do not fit them.

    Examples
    --------
    >>> data = LabelledImages(
    ...     np.zeros((6, 28, 28), np.uint8), ["b", "a", "c", "b", "a", "c"]
    ... )
    >>> data, data.names
    (LabelledImages(3 classes, 6 images of 1 x 28 x 28), ['a', 'b', 'c'])
    >>> example, label = data[0]
    >>> example.shape, label
    (torch.Size([1, 28, 28]), 0)
    >>> LabelledImages(torch.randn(4, 2, 100), [7, 7, 9, 9])
    LabelledImages(2 classes, 4 examples of 2 x 100, float32)
    """

    images: Tensor
    labels: Tensor
    names: list[str]
    counts: Integers
    offsets: Integers

    def __init__(
        self,
        images: np.ndarray | Tensor,
        labels: Sequence[int] | Sequence[str] | np.ndarray | Tensor,
        *,
        names: Sequence[str] | None = None,
        groups: Sequence[int] | np.ndarray | None = None,
        partition: Sequence[str] | None = None,
    ) -> None:
        examples = as_examples(images)
        kinds, numbers = as_classes(labels, len(examples))
        order = np.argsort(numbers, kind="stable")
        in_order = bool((order == np.arange(len(order))).all())
        self.images = (
            examples if in_order else examples[torch.from_numpy(order)]
        )
        self._count(np.bincount(numbers).astype(np.int64))
        self.names = kinds if names is None else list(names)
        self.groups = (
            np.arange(len(kinds)) if groups is None else np.asarray(groups)
        )
        self.partition = None if partition is None else list(partition)
        for name, values in (
            ("names", self.names),
            ("groups", self.groups),
            ("partition", self.partition),
        ):
            if values is not None and len(values) != len(kinds):
                raise ValueError(
                    f"{len(kinds)} classes but {len(values)} {name}"
                )
        if self.partition is not None and len(
            {*zip(self.groups, self.partition, strict=True)}
        ) != len({*self.groups}):
            raise ValueError("the partition tears a group of classes apart")

    def _count(self, counts: Integers) -> None:
        self.counts, self.offsets = counts, np.cumsum(counts) - counts
        numbers = torch.arange(len(counts))
        self.labels = numbers.repeat_interleave(torch.from_numpy(counts))

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        pixels = self.images.dtype == torch.uint8
        kind = str(self.images.dtype).removeprefix("torch.")
        return (
            f"{type(self).__name__}({len(self.names)} classes, {len(self)}"
            f" {'images' if pixels else 'examples'} of"
            f" {' x '.join(map(str, self.images.shape[1:]))}"
            f"{'' if pixels else f', {kind}'})"
        )

    def settings(self) -> dict[str, Any]:
        """What tells these examples from others: values and class sizes, not
        names.
        """
        return {
            "images": described(self.images),
            "counts": described(self.counts),
        }

    def __getitem__(
        self, key: int | slice | Sequence[int] | np.ndarray | Tensor
    ) -> tuple[Tensor, int | Tensor]:
        """One example, as `pixels` gives it, and its label; of several rows,
        examples (n, ...) and labels (n,).
        """
        if isinstance(key, (int, np.integer)):
            row = range(len(self))[key]  # counts from the end, knows the end
            return self.pixels(torch.tensor(row)), int(self.labels[row])
        rows = torch.arange(len(self))[key]
        return self.pixels(rows), self.labels[rows]

    def pixels(self, rows: Tensor) -> Tensor:
        """The examples at ``rows`` (any shape), of shape ``rows.shape + (C, H,
        W)``: pixels as float32 in [0, 1], everything else as it is.
        """
        # many times faster than images[rows]
        chosen = self.images.index_select(
            0, rows.flatten().to(self.images.device)
        ).view(*rows.shape, *self.images.shape[1:])
        if self.images.dtype == torch.uint8:
            return chosen.float().div_(255)
        return chosen

    def subset(self: Self, classes: Sequence[int] | np.ndarray) -> Self:
        """The examples of some classes, renumbered from 0 in the order given.

        Raises
        ------
        ValueError
            If these are not different class numbers, or none at all.
        """
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
        part = self._at(rows, self.counts[classes])
        part.names = [self.names[c] for c in classes]
        part.groups = self.groups[classes]
        if self.partition is not None:
            part.partition = [self.partition[c] for c in classes]
        return part

    def _at(self: Self, rows: Integers, counts: Integers) -> Self:
        """A copy with some rows, which are ``counts`` of each class."""
        part = copy.copy(self)
        part.images = self.images[torch.from_numpy(rows)]
        part._count(counts)
        return part

    def at_least(self: Self, examples: int) -> Self:
        """The classes with at least so many examples.

        Raises
        ------
        ValueError
            If no class has as many.

        Examples
        --------
        >>> data = LabelledImages(torch.randn(5, 3), [0, 0, 0, 1, 1])
        >>> data.at_least(3).names
        ['0']
        """
        if examples > self.counts.max():
            raise ValueError(
                f"no class has {examples} examples; the largest,"
                f" {self.names[int(np.argmax(self.counts))]!r}, has"
                f" {self.counts.max()}"
            )
        return self.subset(np.flatnonzero(self.counts >= examples))

    def split(self: Self, *fractions: float, seed: int = 0) -> tuple[Self, ...]:
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
        >>> parts = mb.glyphs(classes=30, seed=0).split(0.8, 0.1, 0.1)
        >>> [len(part.names) for part in parts]
        [24, 3, 3]
        """
        if fractions:
            parts = classes_of_parts(self.groups, fractions, seed)
            return tuple(self.subset(classes) for classes in parts)
        if self.partition is None:
            raise ValueError(
                "these images come without a split of their own: give"
                " fractions, as .split(0.8, 0.2)"
            )
        own = np.asarray(self.partition)
        for part in ("train", "valid", "test"):
            if part not in self.partition:
                raise ValueError(
                    f"the own split of these images has no {part!r} class: give"
                    " fractions"
                )
        return tuple(
            self.subset(np.flatnonzero(own == part))
            for part in ("train", "valid", "test")
        )

    def split_examples(
        self: Self, *fractions: float, seed: int = 0
    ) -> tuple[Self, ...]:
        """Split within the classes: every class is in every part, an example in
        one at most.

        Parameters
        ----------
        *fractions : float
            Share of each class's examples that each part gets; their sum is at
            most 1.
        seed : int
            Which examples go where.

        Raises
        ------
        ValueError
            If a class has too few examples for a part.

        Examples
        --------
        >>> import metabook as mb
        >>> train, test = mb.digits().split_examples(0.7, 0.3, seed=0)
        >>> len(train), len(test), len(train.names), len(test.names)
        (1258, 539, 10, 10)
        """
        return tuple(
            self._at(rows, counts)
            for rows, counts in rows_of_parts(
                self.counts, self.names, fractions, seed
            )
        )
