# SPDX-License-Identifier: MIT
"""Pictures of your own: a folder for each class.

Taught in section 5.2 of the book.
"""

import os
from pathlib import Path

import numpy as np
import torch

from metabook.data.images import LabelledImages
from metabook.data.picture import check_options, load_image

__all__ = ["image_folder"]

_READ = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
_READ |= {".pbm", ".pgm", ".ppm"}
# pictures of other kinds: said, not skipped
_PICTURES = {".heic", ".heif", ".avif", ".jxl", ".svg", ".psd", ".eps", ".pdf"}
_PARTS = {"train", "training", "valid", "validation", "val", "dev"}
_PARTS |= {"test", "testing"}


def image_folder(
    path: str | os.PathLike[str],
    *,
    size: int = 28,
    channels: int = 1,
    invert: bool | str = "auto",
    fit: str = "pad",
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
    size, channels, invert, fit
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
        no picture, or a picture cannot be read or goes blank. The message names
        the file or folder and says what to do.

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
    check_options(size, channels, invert, fit)
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
        load_image(file, size=size, channels=channels, invert=invert, fit=fit)
        for name in files
        for file in files[name]
    ]
    labels = np.repeat(
        np.arange(len(files)), [len(of_class) for of_class in files.values()]
    )
    return LabelledImages(torch.stack(images), labels, names=list(files))


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
