# SPDX-License-Identifier: MIT
"""Data sets made for torch, as torchvision has them, as labelled images. Taught
in section 5.2 of the book.
"""

import operator
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from metabook.data.images import LabelledImages
from metabook.data.picture import as_pixels, check_options
from metabook.data.progress import progress_bar

__all__ = ["from_dataset"]


class MapStyle(Protocol):
    """What torch calls a map-style data set."""

    def __len__(self) -> int:
        """Number of pairs."""

    def __getitem__(self, index: int, /) -> Any:
        """A pair of an example and its label."""


def from_dataset(
    dataset: MapStyle,
    *,
    size: int | None = None,
    channels: int | None = None,
    fit: str = "pad",
    class_names: Sequence[str] | None = None,
    progress: bool = True,
) -> LabelledImages:
    """Take over a data set of (example, label) pairs, such as torchvision's.

    Every example is asked for once and kept, so a transform of the data set's
    own runs once: what is to be random in each task goes to the tasks, as in
    ``FewShotTasks(images, ..., transform=...)``.

    Parameters
    ----------
    dataset : map-style data set
        Its examples are Pillow images, which are kept as bytes, or tensors or
        arrays, which are kept as `LabelledImages` says; all of one shape. Its
        labels are integers.
    size, channels, fit
        As in `load_image`, for Pillow images; their own unless given.
    class_names : sequence of str, optional
        The name of label 0, 1, ...; those in ``dataset.classes`` unless given,
        and without any the label itself.
    progress : bool
        Show a bar, where the output is a terminal.

    Returns
    -------
    LabelledImages
        Its classes are the labels that occur, in ascending order.

    Raises
    ------
    ValueError
        If this is no such data set. The message names the example.

    Examples
    --------
    >>> from torch.utils.data import TensorDataset
    >>> x, y = torch.randn(6, 2, 100), torch.tensor([3, 1, 1, 3, 3, 1])
    >>> data = from_dataset(TensorDataset(x, y), progress=False)
    >>> data, data.names
    (LabelledImages(2 classes, 6 examples of 2 x 100, float32), ['1', '3'])
    """
    check_options(
        1 if size is None else size,
        1 if channels is None else channels,
        False,
        fit,
    )
    if not hasattr(dataset, "__len__") or len(dataset) == 0:
        raise ValueError(
            f"{type(dataset).__name__} has no length, or length 0: a data set"
            " is asked for dataset[0] to dataset[len(dataset) - 1]"
        )
    examples, labels = None, []
    for i in progress_bar(
        range(len(dataset)), desc="read", show=progress, leave=False
    ):
        value, label = _pair(dataset[i], i)
        x = _tensor(value, i, size, channels, fit)
        if examples is None:
            examples = x.new_empty((len(dataset), *x.shape))
        if x.shape != examples.shape[1:] or x.dtype != examples.dtype:
            raise ValueError(
                f"example {i} is {x.dtype} of shape {tuple(x.shape)}, but"
                f" example 0 is {examples.dtype} of shape"
                f" {tuple(examples.shape[1:])}; all have one: let the data"
                " set's transform resize and convert them, or, where they are"
                " Pillow images, give size= and channels="
            )
        examples[i] = x
        labels.append(label)
    assert examples is not None  # there is one at least
    return LabelledImages(
        examples, labels, names=_names(dataset, class_names, labels)
    )


def _pair(item: Any, i: int) -> tuple[Any, int]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise ValueError(
            f"item {i} of the data set is a {type(item).__name__}; it must be"
            " a pair (example, label): wrap the data set in one whose"
            " __getitem__ returns pairs"
        )
    try:
        return item[0], operator.index(item[1])
    except TypeError as error:
        raise ValueError(
            f"label {i} is {item[1]!r}; a label is one integer, the number of"
            " the class: let the data set's target_transform return it"
        ) from error


def _tensor(
    value: Any, i: int, size: int | None, channels: int | None, fit: str
) -> Tensor:
    from PIL import Image

    if isinstance(value, Image.Image):
        try:
            return torch.from_numpy(
                as_pixels(value, size, channels, False, fit)
            )
        except ValueError as error:
            raise ValueError(f"example {i} cannot be used: {error}") from error
    if not isinstance(value, (Tensor, np.ndarray)):
        raise ValueError(
            f"example {i} is a {type(value).__name__}; it must be a Pillow"
            " image, a tensor or an array: let the data set's transform make"
            " one of it"
        )
    if size is not None or channels is not None:
        raise ValueError(
            f"size= and channels= are for Pillow images, and example {i} is a"
            f" {type(value).__name__}: let the data set's transform resize it"
        )
    return torch.as_tensor(value)


def _names(
    dataset: Any, class_names: Sequence[str] | None, labels: list[int]
) -> list[str]:
    """The name of each label that occurs, in ascending order."""
    kinds = sorted(set(labels))
    if class_names is not None:
        if not 0 <= kinds[0] <= kinds[-1] < len(class_names):
            raise ValueError(
                f"class_names has names for labels 0 to {len(class_names) - 1},"
                f" but the labels run from {kinds[0]} to {kinds[-1]}"
            )
        return [class_names[kind] for kind in kinds]
    while not hasattr(dataset, "classes") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset  # torch's Subset is of another one
    own = getattr(dataset, "classes", ())
    if isinstance(own, (list, tuple)) and 0 <= kinds[0] <= kinds[-1] < len(own):
        return [str(own[kind]) for kind in kinds]
    return [str(kind) for kind in kinds]
