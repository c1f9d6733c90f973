# SPDX-License-Identifier: MIT
"""Handwritten digits that come with scikit-learn: real handwriting without a
download.

Taught in section 3.3.
"""

import numpy as np

from metabook.data.images import LabelledImages

__all__ = ["digits"]


def digits(*, size: int = 28) -> LabelledImages:
    """Load scikit-learn's 1,797 digits of 8 x 8 pixels, enlarged.

    Parameters
    ----------
    size : int
        Side of the images in pixels, by bicubic interpolation; 8 leaves them as
        they are.

    Returns
    -------
    LabelledImages
        uint8, (1797, 1, size, size), 0 for background; the names are ``"0"`` to
        ``"9"``.

    References
    ----------
    Alpaydin & Kaynak, *Optical Recognition of Handwritten Digits*, 1998,
    https://archive.ics.uci.edu/ml/datasets/optical+recognition+of+handwritten+digits,
    whose test set it is.

    Examples
    --------
    >>> digits()
    LabelledImages(10 classes, 1797 images of 1 x 28 x 28)
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    if size < 8:
        raise ValueError(
            f"size is {size}; the digits have 8 pixels a side, so it must be at"
            " least 8"
        )
    data = load_digits()
    # ink is 0 to 16 in the files
    small = np.round(data.images * (255 / 16)).astype(np.uint8)
    bicubic = Image.Resampling.BICUBIC
    large = [
        np.asarray(Image.fromarray(image).resize((size, size), bicubic))
        for image in small
    ]
    return LabelledImages(np.stack(large), data.target)
