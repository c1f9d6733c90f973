# SPDX-License-Identifier: MIT
"""One picture of your own as the learners of this book want it. Taught in
section 5.2 of the book.
"""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["as_pixels", "check_options", "load_image"]

Bytes = NDArray[np.uint8]

FITS = ("pad", "crop", "squeeze")


def load_image(
    path: str | os.PathLike[str],
    *,
    size: int = 28,
    channels: int = 1,
    invert: bool | str = "auto",
    fit: str = "pad",
) -> Tensor:
    """Load one picture: 0 is background, 255 is full ink.

    It is turned as its camera says, and scaled by a Lanczos filter. What is
    transparent counts as paper: white under dark ink, black under light ink.

    Parameters
    ----------
    path : path
        PNG, JPEG, BMP, GIF, TIFF, WebP or PNM, with a single frame, of 1, 8 or
        16 bits.
    size : int
        Side of the result in pixels.
    channels : {1, 3}
        Grey, or red, green and blue.
    invert : {"auto", True, False}
        Whether the picture is dark on light and must be inverted. ``"auto"``
        looks at the border of a grey picture: if more than half of it is
        brighter than middle grey, it is paper. Colour pictures are left as they
        are. Photographs, which have neither ink nor paper, want ``False``.
    fit : {"pad", "crop", "squeeze"}
        How a picture becomes square: padded with background, cut to the square
        in its middle, or squeezed.

    Returns
    -------
    Tensor of uint8, (channels, size, size)

    Raises
    ------
    ValueError
        If the file cannot be read as one picture, or nothing of it is left: all
        of the result has one colour, and the picture has several.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> file = Path(tempfile.mkdtemp()) / "line.png"
    >>> drawing = Image.new("L", (56, 28), "white")
    >>> drawing.paste("black", (20, 0, 36, 28))
    >>> drawing.save(file)
    >>> load_image(file)[
    ...     0, [2, 14], 14
    ... ].tolist()  # the padding above, and the black bar
    [0, 255]
    """
    from PIL import Image

    check_options(size, channels, invert, fit)
    file = Path(path)
    if file.is_symlink() and not file.exists():
        raise ValueError(
            f"{file} is a link to something that is not there: remove it, or"
            " mend it"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                image.load()
                frames = (
                    1
                    if image.format == "MPO"
                    else getattr(image, "n_frames", 1)
                )  # cameras' JPEGs are often MPO
                pixels = (
                    None
                    if frames > 1
                    else as_pixels(image, size, channels, invert, fit)
                )
    except FileNotFoundError:
        raise
    except (
        Image.DecompressionBombWarning,
        Image.DecompressionBombError,
    ) as error:
        raise ValueError(
            f"{file} is larger than the {Image.MAX_IMAGE_PIXELS:,} pixels that"
            " are still read, a guard against files that fill the memory: save"
            " it smaller"
        ) from error
    except (
        Exception
    ) as error:  # a broken file can make Pillow raise nearly anything
        raise ValueError(
            f"{file} cannot be read as a picture ({error}): replace it, or"
            " remove it"
        ) from error
    if pixels is None:
        raise ValueError(
            f"{file} has {frames} frames, and which is meant is unknown: save"
            " that one as PNG"
        )
    return torch.from_numpy(pixels)


def check_options(
    size: int, channels: int, invert: bool | str, fit: str
) -> None:
    """Refuse an option that `load_image` does not know."""
    if size < 1:
        raise ValueError(f"size is {size}; it must be at least 1")
    if channels not in (1, 3):
        raise ValueError(
            f"channels is {channels}; choose 1 for grey or 3 for colour"
        )
    if not isinstance(invert, bool) and invert != "auto":
        raise ValueError(f"invert is {invert!r}; choose 'auto', True or False")
    if fit not in FITS:
        raise ValueError(f"fit is {fit!r}; choose 'pad', 'crop' or 'squeeze'")


def as_pixels(
    image: Any,
    size: int | None,
    channels: int | None,
    invert: bool | str,
    fit: str,
) -> Bytes:
    """A Pillow image as (channels, height, width), 255 for ink: of its own size
    and channels where these are None.
    """
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    opaque, ground = _on_paper(_eight_bits(upright))
    grey = opaque.mode in ("1", "L") if channels is None else channels == 1
    flat = opaque.convert("L" if grey else "RGB")
    values = np.asarray(flat)
    if invert is True or (
        invert == "auto" and grey and float(np.median(_border(values))) > 127.5
    ):
        flat = Image.fromarray(255 - values)
        ground = None if ground is None else 255 - ground
    if size is not None:
        flat = _square(flat, size, fit, ground or 0)
    pixels = np.array(flat)
    # 16 bits are more than what 8 can tell apart
    before = upright if upright.mode.startswith("I") else opaque
    if _one_colour(pixels) and not _one_colour(np.asarray(before)):
        raise ValueError(
            "it has several colours, and the result a single one: give another"
            " fit=, invert= or channels=, or a larger size="
        )
    return (
        pixels[None]
        if grey
        else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    )


def _eight_bits(image: Any) -> Any:
    """Grey pictures of 16 bits scaled to 8: Pillow's own conversion may clip
    them to white. (Colour comes from Pillow with 8.)
    """
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        if values.min() >= 0 and values.max() <= 65535:
            grey = Image.fromarray(np.round(values / 257).astype(np.uint8))
            clear = image.info.get("transparency")  # a value that is not seen
            if clear is not None:
                opacity = np.where(values == clear, 0, 255).astype(np.uint8)
                grey.putalpha(Image.fromarray(opacity))
            return grey
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"its pixels are of mode {image.mode!r}, whose black and white are"
            " unknown; save it with 8 bits"
        )
    return image


def _on_paper(image: Any) -> tuple[Any, int | None]:
    """A picture without transparency, and the brightness of the paper that was
    laid under it: white under dark ink, black under light ink.
    """
    from PIL import Image

    if image.mode == "P":  # colours, and not their numbers
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if (
        image.mode not in ("LA", "PA", "RGBA", "RGBa")
        and "transparency" not in image.info
    ):
        return image, None
    grey = image.mode in ("1", "L", "LA")
    image = image.convert("RGBA")
    opacity = np.asarray(image.getchannel("A"), np.float64)
    brightness = np.asarray(image.convert("RGB").convert("L"), np.float64)
    ground = 255 if (opacity * (brightness - 127.5)).sum() <= 0 else 0
    paper = Image.new("RGBA", image.size, (ground, ground, ground, 255))
    laid = Image.alpha_composite(paper, image)
    return laid.convert("L" if grey else "RGB"), ground


def _square(image: Any, size: int, fit: str, ground: int) -> Any:
    """A picture as a square of ``size`` pixels a side."""
    from PIL import Image

    width, height = image.size
    if fit == "pad":
        scale = size / max(width, height)
        inner = [max(1, round(scale * side)) for side in (width, height)]
        colour = ground if image.mode == "L" else (ground,) * 3
        square = Image.new(image.mode, (size, size), colour)
        square.paste(
            image.resize(inner, Image.Resampling.LANCZOS),
            ((size - inner[0]) // 2, (size - inner[1]) // 2),
        )
        return square
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side) if fit == "crop" else None
    return image.resize((size, size), Image.Resampling.LANCZOS, box=box)


def _border(values: Bytes) -> Bytes:
    return np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])


def _one_colour(values: NDArray[np.generic]) -> bool:
    return bool((values == values[:1, :1]).all())
