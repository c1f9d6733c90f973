# SPDX-License-Identifier: MIT
"""NAS-Bench-201 from its compact file. Taught in section 3.2 of the book."""

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from metabook.nas.nasbench201 import EDGES, OPERATIONS, space
from metabook.nas.tables import Table

__all__ = ["load_nasbench201"]

ARRAYS = ("ops", "edges", "arch", "datasets", "val12", "test200")
WAY_OUT = (
    "metabook reads the compact nasbench201_compact.npz. From the authors' own"
    " files the table is made in a few lines, which"
    " help(metabook.nas.load_nasbench201) shows"
)
# how the files begin that are taken for it
KINDS = {
    b"\x80": "a pickle, as the authors' NAS-Bench-201-v1_1-096897.pth is",
    b"BZh": "a compressed pickle, as the authors' NATS-tss-v1_0-3ffb9.pickle"
    ".pbz2 is",
    b"\x93NUMPY": "a single array (npy)",
}


def load_nasbench201(
    path: str | os.PathLike[str], *, dataset: str = "cifar10"
) -> Table:
    """NAS-Bench-201: 15,625 cells, each an operation on six edges between four
    nodes, trained on three data sets.

    ``table.valid`` is the validation accuracy in percent after 12 epochs, which
    the searches of the paper use (on CIFAR-10 of a training on half of the
    training set); ``table.test`` is the test accuracy after 200 epochs.

    Parameters
    ----------
    path : path
        The compact file, ``nasbench201_compact.npz``.
    dataset : {"cifar10", "cifar100", "imagenet16-120"}

    Returns
    -------
    Table
        Over `metabook.nas.nasbench201.space`, whose module also reads and
        writes the benchmark's own strings and numbers of architectures.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file lacks the data set, or is another file; the message says of
        what kind.

    Notes
    -----
    The compact file holds the arrays ``ops`` (5,), ``edges`` (6,), ``arch``
    (15625, 6), ``datasets`` (3,), ``val12`` and ``test200`` (15625, 3), with
    the cells in the order of the space. From the authors' own files, with their
    package, the same table is made so::

        api = nats_bench.create(folder, "tss", fast_mode=True, verbose=False)
        space = mb.nas.nasbench201.space()


        def accuracy(arch, dataset, epochs, part):
            i = mb.nas.nasbench201.to_index(arch)
            found = api.get_more_info(i, dataset, hp=epochs, is_random=False)
            return found[f"{part}-accuracy"]


        valid = [accuracy(a, "cifar10-valid", "12", "valid") for a in space]
        test = [accuracy(a, "cifar10", "200", "test") for a in space]
        table = mb.nas.Table(space, {12: valid}, test)

    On ``"cifar100"`` and ``"ImageNet16-120"`` that is the name in both lines.

    References
    ----------
    Dong & Yang, 2020, https://arxiv.org/abs/2001.00326

    Examples
    --------
    >>> table = load_nasbench201("nasbench201_compact.npz")  # doctest: +SKIP
    >>> table.test(table.best)  # doctest: +SKIP
    94.37333679199219
    """
    arrays = _read(Path(path))
    names = arrays["datasets"].tolist()
    if dataset not in names:
        raise ValueError(
            f"dataset is {dataset!r}; choose one of {', '.join(names)}"
        )
    order = np.indices((len(OPERATIONS),) * len(EDGES)).reshape(len(EDGES), -1)
    if not (
        arrays["ops"].tolist() == [*OPERATIONS]
        and arrays["edges"].tolist() == [*EDGES]
        and np.array_equal(arrays["arch"], order.T)
    ):
        raise ValueError(
            f"{path} lists the cells, the edges or the operations in another"
            " order than metabook.nas.nasbench201.space(): write it in that"
            " order"
        )
    column = names.index(dataset)
    return Table(
        space(), {12: arrays["val12"][:, column]}, arrays["test200"][:, column]
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the compact file; any other is refused by its kind."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; {WAY_OUT}")
    kind = _other_kind(path)
    if kind is not None:
        raise ValueError(f"{path} is {kind}; {WAY_OUT}")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = sorted(set(ARRAYS) - set(file.files))
            if missing:
                raise ValueError(
                    f"{path} is an npz that lacks {', '.join(missing)};"
                    f" {WAY_OUT}"
                )
            return {name: file[name] for name in ARRAYS}
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(
            f"{path} is an npz that was cut short or damaged ({error}): copy it"
            " again"
        ) from None


def _other_kind(path: Path) -> str | None:
    """What a file is that is no npz."""
    if path.is_dir():
        return "a folder, as the authors' NATS-tss-v1_0-3ffb9-simple is"
    with path.open("rb") as file:
        begin = file.read(8)
    for signature, kind in KINDS.items():
        if begin.startswith(signature):
            return kind
    if not begin.startswith(b"PK"):
        return "no npz" if begin else "an empty file"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
        if any(member.endswith("data.pkl") for member in members):
            return "a file of torch.save, as the authors' .pth files are"
        if not all(member.endswith(".npy") for member in members):
            return "a zip archive"
    return None
