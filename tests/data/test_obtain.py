# SPDX-License-Identifier: MIT
"""Where a file of a data set comes from: a folder of the user's, the cache, or
a download, here from the disk.
"""

import pytest

from metabook.data.files import Refused, obtain


def check(data):
    if not data.startswith(b"good"):
        raise Refused("it does not begin well")
    return data.decode()


@pytest.fixture
def source(tmp_path):
    """What stands for the far end."""
    (tmp_path / "far").mkdir()
    return tmp_path / "far" / "images.zip"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("METABOOK_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "metabook" / "digits"


def get(source, largest=99):
    return obtain(
        "digits", "images.zip", source.as_uri(), check, largest, "Set X"
    )


def test_a_download_is_kept_for_the_next_time(source, cache):
    source.write_bytes(b"good, from afar")
    assert get(source) == "good, from afar"
    assert (cache / "images.zip").read_bytes() == b"good, from afar"
    source.unlink()
    assert get(source) == "good, from afar"


def test_the_users_own_folder_comes_before_the_cache(
    source, cache, tmp_path, monkeypatch
):
    cache.mkdir(parents=True)
    (cache / "images.zip").write_bytes(b"good, from the cache")
    assert get(source) == "good, from the cache"
    own = tmp_path / "own" / "digits"
    own.mkdir(parents=True)
    (own / "images.2015.zip").write_bytes(b"good, my own")
    monkeypatch.setenv("METABOOK_DATA", str(tmp_path / "own"))
    assert get(source) == "good, my own"


def test_a_bad_copy_is_left_aside_by_its_name(source, cache):
    source.write_bytes(b"good, from afar")
    cache.mkdir(parents=True)
    (cache / "images.zip").write_bytes(b"half")
    with pytest.warns(UserWarning, match=r"images\.zip is left aside: it does"):
        assert get(source) == "good, from afar"


def test_without_copy_and_network_the_way_out_is_named(source, cache):
    with pytest.raises(
        RuntimeError, match=r"no copy of digits was found.*\. Set X"
    ):
        get(source)
    assert not cache.exists()


def test_another_file_than_expected_is_not_kept(source, cache):
    source.write_bytes(b"<html>not found</html>")
    with pytest.raises(
        RuntimeError, match="delivered something else: .*Nothing was kept"
    ):
        get(source)
    assert not cache.exists()


@pytest.mark.parametrize("size", [99, 100])
def test_a_download_has_a_largest_size(source, cache, size):
    source.write_bytes(b"good".ljust(size))
    if size <= 99:
        assert len(get(source)) == size
        return
    with pytest.raises(RuntimeError, match="it is larger than 99 bytes"):
        get(source)
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_said_and_no_error(source, cache):
    source.write_bytes(b"good, from afar")
    cache.parent.parent.write_text("a file where the cache would be")
    with pytest.warns(UserWarning, match="could not be kept for the next time"):
        assert get(source) == "good, from afar"
