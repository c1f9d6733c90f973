# SPDX-License-Identifier: MIT
"""Pictures of your own: a folder for each class.

Taught in section 5.2 of the book.
"""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabook.data.images import LabelledImages

__all__ = ["image_folder", "load_image"]

_READ = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
_READ |= {".pbm", ".pgm", ".ppm"}
# pictures of other kinds: said, not skipped
_PICTURES = {".heic", ".heif", ".avif", ".jxl", ".svg", ".psd", ".eps", ".pdf"}
_PARTS = {"train", "training", "valid", "validation", "val", "dev"}
_PARTS |= {"test", "testing"}

Bytes = NDArray[np.uint8]


def image_folder(
    path: str | os.PathLike[str],
    size: int = 28,
    channels: int = 1,
    invert: bool | str = "auto",
) -> LabelledImages:
    """Load a folder that has one folder for each class, with that class's
    pictures in it.

    Classes and pictures come in the order of their names. Hidden files and
    files that are no pictures are passed over, and links are followed; whatever
    else is not as it should be raises.

    Parameters
    ----------
    path : path
        ``path/cat/1.png``, ``path/cat/2.jpg``, ``path/dog/1.png``, ...
    size, channels, invert
        As in `load_image`, for every picture on its own.

    Returns
    -------
    LabelledImages
        uint8, (N, channels, size, size); the names are those of the folders.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If there is no such folder.
    ValueError
        If its classes cannot be told, there are fewer than two of them, one has
        no picture, or a picture cannot be read. The message names the file or
        folder and says what to do.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("cat", "dog"):
    ...     (folder / name).mkdir()
    ...     Image.new("L", (60, 40), "white").save(folder / name / "1.png")
    >>> image_folder(folder)
    LabelledImages(2 classes, 2 images of 1 x 28 x 28)
    """
    _check_options(size, channels, invert)
    folder = Path(path)
    if not folder.exists():
        raise FileNotFoundError(
            f"there is no folder {folder} (looked for in {Path.cwd()})"
        )
    if not folder.is_dir():
        raise NotADirectoryError(
            f"{folder} is a file; give the folder that holds a folder for each"
            " class"
        )
    entries = _visible(folder)
    classes = [e for e in entries if e.is_dir()]
    loose = [e for e in entries if _is_picture(e)]
    if loose:
        raise ValueError(
            f"{loose[0]} lies beside the class folders, so its class is"
            " unknown: put every picture into a folder named after its class,"
            f" as {folder / 'cat' / loose[0].name}"
        )
    if not classes:
        raise ValueError(
            f"{folder} has no folders; it needs one for each class, with the"
            " pictures of the class in it"
        )
    _refuse_another_level(folder, classes)
    files = {c.name: _pictures(c) for c in classes}
    if len(classes) == 1:
        raise ValueError(
            f"{folder} has one class, {classes[0].name!r}; to tell classes"
            " apart takes two or more. If the class folders lie elsewhere,"
            " give the folder directly above them"
        )
    images = [
        load_image(file, size, channels, invert)
        for name in files
        for file in files[name]
    ]
    labels = np.repeat(
        np.arange(len(files)), [len(of_class) for of_class in files.values()]
    )
    return LabelledImages(torch.stack(images), labels, list(files))


def load_image(
    path: str | os.PathLike[str],
    size: int = 28,
    channels: int = 1,
    invert: bool | str = "auto",
) -> Tensor:
    """Load one picture as the learners of this book want it: 0 is background,
    255 is full ink.

    It is turned as its camera says, scaled by a Lanczos filter so that its
    longer side is ``size``, and padded with background to a square. What is
    transparent counts as background.

    Parameters
    ----------
    path : path
        PNG, JPEG, BMP, GIF, TIFF, WebP or PNM, with a single frame.
    size : int
        Side of the result in pixels.
    channels : {1, 3}
        Grey, or red, green and blue.
    invert : {"auto", True, False}
        Whether the picture is dark on light and must be inverted. ``"auto"``
        looks at the border of a grey picture: if more than half of it is
        brighter than middle grey, it is paper. Colour pictures are left as they
        are. Photographs, which have neither ink nor paper, want ``False``.

    Returns
    -------
    Tensor of uint8, (channels, size, size)

    Raises
    ------
    ValueError
        If the file cannot be read as one picture.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> file = Path(tempfile.mkdtemp()) / "line.png"
    >>> drawing = Image.new("L", (56, 28), "white")
    >>> drawing.paste("black", (20, 0, 36, 28))
    >>> drawing.save(file)
    >>> image = load_image(file)
    >>> image[0, [2, 14], 14].tolist()  # the padding above, and the black bar
    [0, 255]
    """
    from PIL import Image

    _check_options(size, channels, invert)
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
                frames = getattr(image, "n_frames", 1)
                if image.format == "MPO":  # cameras' JPEGs are often MPO
                    frames = 1
                pixels = (
                    None
                    if frames > 1
                    else _pixels(image, size, channels, invert)
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
    # a broken file can make Pillow raise nearly anything
    except Exception as error:
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


def _check_options(size: int, channels: int, invert: bool | str) -> None:
    if size < 1:
        raise ValueError(f"size is {size}; it must be at least 1")
    if channels not in (1, 3):
        raise ValueError(
            f"channels is {channels}; choose 1 for grey or 3 for colour"
        )
    if not isinstance(invert, bool) and invert != "auto":
        raise ValueError(f"invert is {invert!r}; choose 'auto', True or False")


def _visible(folder: Path) -> list[Path]:
    """What lies in a folder, without what operating systems leave behind."""
    left_behind = {"thumbs.db", "desktop.ini", "__macosx"}
    return sorted(
        e
        for e in folder.iterdir()
        if not e.name.startswith(".") and e.name.lower() not in left_behind
    )


def _is_picture(path: Path) -> bool:
    return not path.is_dir() and path.suffix.lower() in _READ | _PICTURES


def _refuse_another_level(folder: Path, classes: list[Path]) -> None:
    """One level of folders are the classes; what lies deeper would be lost."""
    for c in classes:
        deeper = next(
            (
                d
                for d in _visible(c)
                if d.is_dir() and any(map(_is_picture, _visible(d)))
            ),
            None,
        )
        if deeper is None:
            continue
        if c.name.lower() in _PARTS:
            raise ValueError(
                f"{c.name!r} is a part of a split, with class folders of its"
                " own: load each part by itself, as"
                f" mb.image_folder({str(c)!r})"
            )
        raise ValueError(
            f"{deeper} holds pictures one level below the class folders: if"
            f" {c.name!r} is no class, give mb.image_folder({str(c)!r}); if it"
            " is, move the pictures up into it"
        )


def _pictures(folder: Path) -> list[Path]:
    """The pictures of one class."""
    pictures = [e for e in _visible(folder) if _is_picture(e)]
    for file in pictures:
        if file.suffix.lower() in _PICTURES:
            raise ValueError(
                f"{file} is a picture of a kind that is not read here: save it"
                " as PNG or JPEG"
            )
    if not pictures:
        others = sorted({e.suffix or e.name for e in _visible(folder)})
        found = f"only {', '.join(others)}" if others else "nothing"
        raise ValueError(
            f"the class folder {folder} holds no pictures, {found}: put some"
            " in, or remove the folder (pictures end in"
            f" {', '.join(sorted(_READ))})"
        )
    return pictures


def _pixels(image: Any, size: int, channels: int, invert: bool | str) -> Bytes:
    """A picture as (channels, size, size), 255 for ink."""
    from PIL import Image, ImageOps

    image = _on_paper(
        _eight_bits(ImageOps.exif_transpose(image)), invert, channels
    )
    image = image.convert("L" if channels == 1 else "RGB")
    values = np.asarray(image)
    if invert is True or (
        invert == "auto"
        and channels == 1
        and float(np.median(_border(values))) > 127.5
    ):
        image = Image.fromarray(255 - values)
    scale = size / max(image.size)
    inner = tuple(max(1, round(scale * side)) for side in image.size)
    square = Image.new(image.mode, (size, size))  # zeros
    square.paste(
        image.resize(inner, Image.Resampling.LANCZOS),
        ((size - inner[0]) // 2, (size - inner[1]) // 2),
    )
    pixels = np.array(square)
    return (
        pixels[None]
        if channels == 1
        else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    )


def _eight_bits(image: Any) -> Any:
    """16 bits scaled to 8: Pillow's own conversion may clip them to white."""
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        if values.min() >= 0 and values.max() <= 65535:
            return Image.fromarray(np.round(values / 257).astype(np.uint8))
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"its pixels are of mode {image.mode!r}, whose black and white are"
            " unknown; save it with 8 bits"
        )
    return image


def _on_paper(image: Any, invert: bool | str, channels: int) -> Any:
    """A picture without transparency: dark ink is laid on white paper, light
    ink on black.
    """
    from PIL import Image

    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    opacity = np.asarray(image.getchannel("A"), np.float64)
    if invert == "auto":
        brightness = np.asarray(image.convert("RGB").convert("L"), np.float64)
        dark = channels == 1 and bool(
            (opacity * (brightness - 127.5)).sum() < 0
        )
    else:
        dark = bool(invert)
    paper = Image.new("RGBA", image.size, "white" if dark else "black")
    return Image.alpha_composite(paper, image).convert("RGB")


def _border(values: Bytes) -> Bytes:
    return np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
