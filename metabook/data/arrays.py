# SPDX-License-Identifier: MIT
"""Arrays of any origin as examples and labels, or an error that says what does
not fit.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["as_classes", "as_examples"]


def as_examples(images: np.ndarray | Tensor) -> Tensor:
    """Examples (N, ...) as a Tensor of pixels, finite floats, or tokens.

    Examples
    --------
    >>> as_examples(np.zeros((2, 28, 28), np.uint8)).shape
    torch.Size([2, 1, 28, 28])
    """
    examples = torch.as_tensor(images).detach()
    shape, dtype = tuple(examples.shape), examples.dtype
    if len(shape) > 0 and len(examples) == 0:
        raise ValueError("there are no images")
    if dtype == torch.uint8:
        if len(shape) not in (3, 4):
            raise ValueError(
                f"images are {dtype} of shape {shape}; bytes are pixels, (N, H,"
                " W) or (N, C, H, W). Other examples are floats, or int64 for"
                " tokens"
            )
        if len(shape) == 4 and shape[3] in (3, 4) and shape[1] > 4:
            raise ValueError(
                f"images of shape {shape} have their channels last; they come"
                " first here: np.moveaxis(images, -1, 1)"
            )
        return examples[:, None] if len(shape) == 3 else examples
    if not (dtype.is_floating_point or dtype in (torch.int32, torch.int64)):
        raise ValueError(
            f"images are {dtype}; they are uint8 for pixels, floats for"
            " signals and features (convert by .astype('float32')), or int64"
            " for tokens"
        )
    if len(shape) < 2:
        raise ValueError(
            f"images have shape {shape}; the first size counts the examples,"
            " and each of them has a shape too: images.reshape(-1, 1) makes"
            " numbers vectors"
        )
    if dtype.is_floating_point and not bool(examples.isfinite().all()):
        row = int((~examples.flatten(1).isfinite()).any(dim=1).nonzero()[0])
        raise ValueError(
            f"example {row} holds a value that is not finite (nan or inf): mend"
            " it, or leave it out"
        )
    return examples


def as_classes(
    labels: Sequence[int] | Sequence[str] | np.ndarray | Tensor, examples: int
) -> tuple[list[str], NDArray[np.int64]]:
    """What the different labels are called, and the number of each example's.

    Examples
    --------
    >>> names, numbers = as_classes(["cat", "ant", "cat"], examples=3)
    >>> names, numbers.tolist()
    (['ant', 'cat'], [1, 0, 1])
    """
    values = (
        labels.cpu().numpy()
        if isinstance(labels, Tensor)
        else np.asarray(labels)
    )
    if values.shape != (examples,):
        raise ValueError(
            f"{examples} images but labels of shape {values.shape}; there is"
            " one label an image"
        )
    if values.dtype == object and all(isinstance(v, str) for v in values):
        values = values.astype(str)
    if values.dtype.kind not in "iuU":
        raise ValueError(
            f"labels are {values.dtype}; a label is an integer or a string"
        )
    kinds, numbers = np.unique(values, return_inverse=True)
    return [str(kind) for kind in kinds], numbers
