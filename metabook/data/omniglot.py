# SPDX-License-Identifier: MIT
"""Omniglot: 1,623 handwritten characters from 50 alphabets, 20 drawings each.

Lake, Salakhutdinov & Tenenbaum, *Human-level concept learning through
probabilistic program induction*, 2015, https://doi.org/10.1126/science.aab3050;
data: https://github.com/brendenlake/omniglot (MIT). The split of the characters
is that of Vinyals et al., 2016, as the authors of prototypical networks
published it.

Nothing is unpacked: the images are read out of the two archives, after their
contents were checked. Taught in section 5.2 of the book.
"""

import hashlib
import io
import re
import zipfile
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from metabook.data.files import Refused, obtain
from metabook.data.images import LabelledImages

__all__ = ["omniglot"]

_IMAGES = (
    "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
    "/images_{part}.zip"
)
_SPLITS = (
    "https://raw.githubusercontent.com/jakesnell/prototypical-networks/master"
    "/data/omniglot/splits/vinyals/{part}.txt"
)
# SHA-256 over the sorted PNG members: name, zero byte, SHA-256 of the bytes.
# Repacked archives pass too.
_ARCHIVES = {
    "background": (
        19_280,
        "07356096b8076fcf915341f8715e94822249e2a4d5b999fd2d0f6cf9ebffebd5",
    ),
    "evaluation": (
        13_180,
        "f5165eb5f20d18e13c6515650b69a42a2c0507506969d410ba5e4a1c572bd542",
    ),
}
# number of lines, and SHA-256 over the sorted lines, each followed by a newline
_LISTS = {
    "train": (
        4_112,
        "546a87d22138d29c749f104f12a2a3789637977375cd965bddb3a9053f39bcfa",
    ),
    "val": (
        688,
        "ff75fc09eb450fda99c4e5dfac8d2fc92f8f7d19fc8e95265004b9887e56d5a8",
    ),
    "test": (
        1_692,
        "75aae2826773007d778e2e2ba702bbc58f431aeb882a21053ec98364e943c3a9",
    ),
}
_MEMBER = re.compile(
    r"images_(?:background|evaluation)/([^/\\]+/character\d\d)/\d{4}_\d\d\.png"
)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LARGEST = 100_000  # bytes; the real images have a few hundred
_LARGEST_DOWNLOAD = 50_000_000
_WAY_OUT = (
    "Put the files of github.com/brendenlake/omniglot and the lists of the"
    " split into a folder 'omniglot', and name the folder above it in the"
    " environment variable METABOOK_DATA; or use mb.glyphs(), which needs no"
    " download"
)

T = TypeVar("T")


def omniglot(
    *, rotations: bool = True, size: int = 28, resize: str = "nearest"
) -> LabelledImages:
    """Load Omniglot with the split of Vinyals et al.

    The first time it is downloaded (14 MB). A copy is looked for in the folder
    ``omniglot`` of ``$METABOOK_DATA``, then in the user's cache. Its contents
    are compared with known digests before anything is used. ``.split()`` gives
    1,028 training, 172 validation and 423 test characters.

    Parameters
    ----------
    rotations : bool
        Make each character four classes, turned by 0, 90, 180 and 270 degrees.
        They stay in one part of any split.
    size : int
        Side of the images in pixels; 105 in the files.
    resize : {"nearest", "lanczos"}
        ``"nearest"`` gives the broken, two-valued strokes that the code of the
        MAML and the ProtoNet papers really used (Pillow falls back to it on
        1-bit images); ``"lanczos"`` smooths.

    Returns
    -------
    LabelledImages
        Ink is 255; names are ``"Alphabet/characterNN/rotRRR"``.

    Raises
    ------
    RuntimeError
        If there is no copy and none can be downloaded, or the contents are not
        Omniglot's.

    References
    ----------
    Lake, Salakhutdinov & Tenenbaum, 2015,
    https://doi.org/10.1126/science.aab3050; the split: Vinyals et al., 2016,
    https://arxiv.org/abs/1606.04080

    Examples
    --------
    >>> import metabook as mb
    >>> train, valid, test = mb.omniglot().split()  # doctest: +SKIP
    >>> len(test.names)  # 423 characters in four rotations  # doctest: +SKIP
    1692
    """
    if resize not in ("nearest", "lanczos"):
        raise ValueError(f"resize is {resize!r}; choose 'nearest' or 'lanczos'")
    # "Alphabet/characterNN" -> its twenty PNG files
    drawings: dict[str, list[bytes]] = {}
    for part in _ARCHIVES:
        files = _obtain(
            f"images_{part}.zip",
            _IMAGES.format(part=part),
            partial(_members, part=part),
        )
        for name in sorted(files):
            drawings.setdefault("/".join(name.split("/")[1:3]), []).append(
                files[name]
            )
    part_of = {}  # "Alphabet/characterNN" -> "train", "valid" or "test"
    for part in _LISTS:
        lines = _obtain(
            f"vinyals_{part}.txt",
            _SPLITS.format(part=part),
            partial(_lines, part=part),
        )
        for line in lines:
            part_of[line.rsplit("/", 1)[0]] = "valid" if part == "val" else part
    characters = sorted(drawings)
    upright = np.stack(
        [
            [_decode(data, size, resize) for data in drawings[name]]
            for name in characters
        ]
    )
    turns = range(4) if rotations else range(1)
    # (characters, turns, 20, size, size): a turn of the small image is the
    # small image of the turn, as the grid is symmetric
    images = np.stack(
        [np.rot90(upright, k, axes=(2, 3)) for k in turns], axis=1
    )
    classes = len(characters) * len(turns)
    return LabelledImages(
        images.reshape(-1, size, size),
        np.repeat(np.arange(classes), images.shape[2]),
        names=[f"{name}/rot{90 * k:03d}" for name in characters for k in turns],
        groups=np.repeat(np.arange(len(characters)), len(turns)),
        partition=[part_of[name] for name in characters for _ in turns],
    )


def _obtain(name: str, url: str, check: Callable[[bytes], T]) -> T:
    return obtain("omniglot", name, url, check, _LARGEST_DOWNLOAD, _WAY_OUT)


def _decode(data: bytes, size: int, resize: str) -> NDArray[np.uint8]:
    """One PNG as (size, size), 255 for ink."""
    from PIL import Image

    image: Image.Image = Image.open(io.BytesIO(data))
    if image.size != (size, size):
        if resize == "nearest":
            image = image.resize((size, size), Image.Resampling.NEAREST)
        else:
            image = image.convert("L").resize(
                (size, size), Image.Resampling.LANCZOS
            )
    return 255 - np.asarray(image.convert("L"))


def _members(archive: bytes, part: str) -> dict[str, bytes]:
    """The images in an archive, by name, once their digest is the known one."""
    count, digest = _ARCHIVES[part]
    images = {}
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as source:
            members = [
                info
                for info in source.infolist()
                if info.filename.endswith(".png")
            ]
            if len(members) > count:
                raise Refused(
                    f"it holds {len(members):,} images, and not {count:,}"
                )
            for info in members:
                if (
                    not _MEMBER.fullmatch(info.filename)
                    or info.compress_type not in _METHODS
                    or info.file_size > _LARGEST
                ):
                    raise Refused(
                        f"it holds {info.filename!r} of {info.file_size:,}"
                        " bytes, which Omniglot does not"
                    )
                with source.open(info) as file:
                    # never more, whatever the archive claims
                    images[info.filename] = file.read(_LARGEST)
    except Refused:
        raise
    # a broken archive can make zipfile raise nearly anything
    except Exception as error:
        raise Refused(f"it is not a whole zip archive ({error})") from error
    total = hashlib.sha256()
    for name in sorted(images):
        total.update(
            name.encode() + b"\0" + hashlib.sha256(images[name]).digest()
        )
    if len(images) != count or total.hexdigest() != digest:
        raise Refused(
            f"its {len(images):,} images are not the {count:,} of Omniglot"
        )
    return images


def _lines(text: bytes, part: str) -> list[str]:
    """The classes in a list of the split, once its digest is the known one."""
    count, digest = _LISTS[part]
    lines = sorted(text.decode("utf8", "replace").split())
    whole = "".join(f"{line}\n" for line in lines).encode()
    if len(lines) != count or hashlib.sha256(whole).hexdigest() != digest:
        raise Refused(
            f"its {len(lines):,} lines are not the {count:,} classes of the"
            " split"
        )
    return lines
