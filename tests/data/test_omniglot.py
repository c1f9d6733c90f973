# SPDX-License-Identifier: MIT
"""Omniglot: the real files where they are, and every way in which a file can be
wrong.
"""

import io
import os
import shutil
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import metabook as mb

SOURCE = Path(os.environ.get("METABOOK_DATA", "nowhere")) / "omniglot"
real = pytest.mark.skipif(
    not SOURCE.is_dir(),
    reason="no Omniglot: set METABOOK_DATA to a folder that has it",
)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network and an empty cache; returns a folder for METABOOK_DATA."""

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("METABOOK_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "omniglot").mkdir(parents=True)
    return tmp_path / "data" / "omniglot"


@pytest.fixture(scope="module")
def omniglot():
    return mb.omniglot()


@real
def test_the_split_is_that_of_the_papers(omniglot):
    train, valid, test = omniglot.split()
    assert [len(p.names) for p in (train, valid, test)] == [
        4 * 1028,
        4 * 172,
        4 * 423,
    ]
    assert all((p.counts == 20).all() for p in (train, valid, test))
    groups = [set(p.groups) for p in (train, valid, test)]
    assert not (
        groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2]
    )
    for part, name in ((train, "train"), (valid, "val"), (test, "test")):
        assert sorted(part.names) == sorted(
            (SOURCE / f"vinyals_{name}.txt").read_text().split()
        )


@real
def test_ink_is_one_and_rotations_are_rotations(omniglot):
    mean = omniglot.images.double().mean() / 255
    assert 0.03 < mean < 0.2, "mostly paper, which is 0"
    first = omniglot.images[omniglot.offsets[:4], 0]
    for k in range(4):
        assert torch.equal(first[k], torch.rot90(first[0], k))
    assert set(np.unique(omniglot.images[:1000])) == {
        0,
        255,
    }, "nearest-neighbour images are two-valued"


@real
def test_a_turn_of_the_small_image_is_the_small_image_of_the_turn():
    from PIL import Image

    with zipfile.ZipFile(
        next(SOURCE.glob("images_background*.zip"))
    ) as archive:
        image = Image.open(io.BytesIO(archive.read(archive.namelist()[0])))
        for k in range(4):
            turned_then_small = np.asarray(
                image.rotate(90 * k).resize((28, 28))
            )
            small_then_turned = np.rot90(np.asarray(image.resize((28, 28))), k)
            assert (turned_then_small == small_then_turned).all()


@real
def test_smoothed_images_have_greys_and_upright_ones_a_quarter_of_the_classes():
    images = mb.omniglot(rotations=False, resize="lanczos")
    assert len(images.names) == 1623
    assert len(np.unique(images.images[:100])) > 10


@real
@pytest.mark.parametrize(
    "harm", ["truncate", "flip", "hostile", "missing", "empty"]
)
def test_a_broken_archive_is_refused_and_the_good_copy_kept_and_used(
    offline, tmp_path, harm
):
    good = tmp_path / "cache" / "metabook" / "omniglot"
    shutil.copytree(SOURCE, good)
    before = {p.name: p.read_bytes() for p in good.iterdir()}
    source = next(SOURCE.glob("images_background*.zip")).read_bytes()
    bad = offline / "images_background.zip"
    if harm == "truncate":
        bad.write_bytes(source[: len(source) // 2])
    elif harm == "flip":
        bad.write_bytes(
            source[:5000] + bytes([source[5000] ^ 0xFF]) + source[5001:]
        )
    elif harm == "empty":
        bad.write_bytes(b"")
    else:
        with (
            zipfile.ZipFile(io.BytesIO(source)) as old,
            zipfile.ZipFile(bad, "w") as new,
        ):
            names = old.namelist() if harm == "hostile" else old.namelist()[1:]
            for name in names:
                new.writestr(name, old.read(name))
            if harm == "hostile":
                new.writestr("../../escaped.png", b"x")
    with pytest.warns(
        UserWarning, match=r"images_background\.zip is left aside"
    ):
        images = mb.omniglot(rotations=False)
    assert len(images.names) == 1623
    assert {p.name: p.read_bytes() for p in good.iterdir()} == before
    assert not list(tmp_path.rglob("escaped.png"))


@pytest.mark.filterwarnings("ignore:.*left aside")
@pytest.mark.parametrize("name", ["images_background.zip", None])
def test_without_a_good_copy_the_way_out_is_named(offline, name):
    if name:
        (offline / name).write_bytes(b"not a zip")
    with pytest.raises(RuntimeError, match=r"METABOOK_DATA; or use mb\.glyphs"):
        mb.omniglot()


@real
def test_a_download_is_checked_and_then_kept(offline, tmp_path, monkeypatch):
    files = {}
    for part in ("background", "evaluation"):
        files[f"images_{part}.zip"] = next(
            SOURCE.glob(f"images_{part}*.zip")
        ).read_bytes()
    for part in ("train", "val", "test"):
        files[f"{part}.txt"] = (SOURCE / f"vinyals_{part}.txt").read_bytes()

    class Response(io.BytesIO):
        headers: dict = {}

    def serve(url, timeout):
        return Response(files[url.rsplit("/", 1)[1]])

    monkeypatch.setattr(urllib.request, "urlopen", serve)
    good = files["images_evaluation.zip"]
    files["images_evaluation.zip"] = good[:-100]
    with pytest.raises(
        RuntimeError, match="delivered something else.*Nothing was kept"
    ):
        mb.omniglot()
    cache = tmp_path / "cache" / "metabook" / "omniglot"
    assert [p.name for p in cache.iterdir()] == ["images_background.zip"]
    files["images_evaluation.zip"] = good
    assert len(mb.omniglot(rotations=False).names) == 1623
    assert len(list(cache.iterdir())) == 5

    def refuse(url, timeout):
        raise urllib.error.URLError("the second time needs no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    assert len(mb.omniglot(rotations=False).names) == 1623


@pytest.mark.parametrize("harm", ["bomb", "bzip2", "fuzz"])
def test_archives_that_lie_are_refused_and_never_inflated(harm, monkeypatch):
    from metabook.data import omniglot as module

    name = "images_background/Greek/character01/0001_01.png"
    buffer = io.BytesIO()
    with zipfile.ZipFile(
        buffer,
        "w",
        zipfile.ZIP_BZIP2 if harm == "bzip2" else zipfile.ZIP_DEFLATED,
    ) as archive:
        archive.writestr(
            name, bytes(3_000_000) if harm == "bomb" else b"x" * 100
        )
    data = buffer.getvalue()
    if harm == "bomb":  # claim 100 bytes in both headers
        data = data.replace(
            (3_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little")
        )
    rng = np.random.default_rng(0)
    for _ in range(300 if harm == "fuzz" else 1):
        broken = bytearray(data)
        if harm == "fuzz":
            for at in rng.integers(len(data), size=rng.integers(1, 6)):
                broken[at] = rng.integers(256)
        with pytest.raises(module.Refused):
            module._members(bytes(broken), "background")


def test_an_unknown_filter_is_refused():
    with pytest.raises(ValueError, match="'nearest' or 'lanczos'"):
        mb.omniglot(resize="cubic")
