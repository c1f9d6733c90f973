# SPDX-License-Identifier: MIT
"""Files that are whole or not there, one writer at a time, and bars only where
somebody looks.
"""

import errno
import io
import os
import signal
import subprocess
import sys
import time
import types
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import torch
from processes import Child

from metabook.data import files, progress
from metabook.data.lock import _mine, locked
from metabook.data.progress import progress_bar

STATE = {"a": torch.arange(20), "b": [1, 2.5, "three", (4, None)]}


def test_a_state_comes_back(tmp_path):
    files.save_state(tmp_path / "new" / "x.pt", STATE)
    found = files.load_state(tmp_path / "new" / "x.pt")
    assert torch.equal(found["a"], STATE["a"]) and found["b"] == STATE["b"]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.pt"]


def test_every_length_of_a_truncated_state_is_refused_by_name(tmp_path):
    path = tmp_path / "x.pt"
    files.save_state(path, {"a": 1})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"x\.pt is not a readable") as e:
            files.load_state(path)
        assert "choose another folder" in str(e.value)


def test_every_damaged_byte_of_the_numbers_is_noticed(tmp_path):
    path = tmp_path / "x.pt"
    files.save_state(path, {"a": torch.full((64,), 7, dtype=torch.uint8)})
    whole = path.read_bytes()
    start = whole.index(b"\7" * 64)
    for place in (start, start + 31, start + 63):
        path.write_bytes(whole[:place] + b"\0" + whole[place + 1 :])
        with pytest.raises(ValueError, match="is damaged"):
            files.load_state(path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\3\4" + b"x" * 99])
def test_garbage_is_refused_by_name(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pt is not a readable checkpoint"):
        files.load_state(tmp_path / "x.pt")


def test_what_is_no_state_is_refused_and_no_code_is_run(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": Path("x")}, tmp_path / "code.pt")
    with pytest.raises(ValueError, match="it holds a list"):
        files.load_state(tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"code\.pt is not a readable"):
        files.load_state(tmp_path / "code.pt")


def test_a_file_that_cannot_be_read_is_an_error_of_the_disk(tmp_path):
    (tmp_path / "x.pt").mkdir()
    with pytest.raises(OSError, match=r"x\.pt"):
        files.load_state(tmp_path / "x.pt")


def test_what_could_not_be_loaded_again_is_not_saved(tmp_path):
    path = tmp_path / "x.pt"
    files.save_state(path, STATE, prove=True)
    before = path.read_bytes()
    for state in ({"a": Path("x")}, {"a": files.Refused("x")}):
        with pytest.raises(TypeError, match=r"cannot be loaded again.*tensors"):
            files.save_state(path, state, prove=True)
    assert path.read_bytes() == before


def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "x.pt"
    files.save_state(path, STATE)
    before = path.read_bytes()

    def full(self, data):
        with io.FileIO(self, "w") as file:
            file.write(bytes(data)[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"x\.pt could not be written") as error:
        files.save_state(path, STATE | {"c": 1})
    assert error.value.errno == errno.ENOSPC
    assert "No space left on device" in str(error.value)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for little."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if done.returncode:
        pytest.skip("no file system may be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_full_indeed(small_disk):
    path = small_disk / "x.pt"
    files.save_state(path, STATE)
    before = path.read_bytes()
    with pytest.raises(OSError, match=r"x\.pt could not be written") as error:
        files.save_state(path, {"a": torch.zeros(10**5)})
    assert error.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    files.append(small_disk / "log", b"one\n")
    with pytest.raises(OSError, match="log could not be written"):
        files.append(small_disk / "log", b"x" * 10**5)
    assert (small_disk / "log").read_bytes().startswith(b"one\n")


def test_parts_of_killed_saves_are_removed_and_nothing_else(tmp_path):
    for name in ("x.pt", "x.pt.12.part", "x.pt.99.part", "mine.part", "y.part"):
        (tmp_path / name).touch()
    files.remove_parts(tmp_path, "x.pt")
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["mine.part", "x.pt", "y.part"]


# --- locks ---


def hold(folder, then=lambda: None):
    """Hold the lock until killed."""

    def function(say):
        with locked(folder):
            say("held")
            say(then())
            time.sleep(60)

    child = Child(function)
    assert child.line() == "held"
    return child


def test_another_process_is_kept_out_and_told_by_whom(tmp_path):
    with (
        hold(tmp_path) as child,
        pytest.raises(BlockingIOError, match=f"process {child.pid} on"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):  # the lock of a dead process is none
        pass


def test_workers_of_a_killed_process_do_not_keep_its_lock(tmp_path):
    """They were forked while it was held, and live on."""

    def work():
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        return pid

    with hold(tmp_path, work) as child:
        worker = int(child.line())
    try:
        os.kill(worker, 0)  # it is alive
        with locked(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_the_same_program_is_kept_out_too_and_let_in_afterwards(tmp_path):
    def intrude(say):
        _mine.clear()  # what a program of its own would not know
        with locked(tmp_path):
            pass

    with locked(tmp_path):
        with (
            pytest.raises(BlockingIOError, match="another run in this program"),
            locked(tmp_path / ".." / tmp_path.name),
        ):
            pass
        # the second attempt has not loosened the lock of the first
        with Child(intrude) as child:
            assert f"process {os.getpid()} on" in child.rest()[-1]
    with locked(tmp_path):
        pass


def test_a_file_system_without_locks_is_written_all_the_same(
    tmp_path, monkeypatch
):
    def none(handle):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("metabook.data.lock._take", none)
    with locked(tmp_path):
        pass


# --- bars ---


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(tty=True, **options):
    """What a bar writes while it counts."""
    with redirect_stderr(Terminal() if tty else io.StringIO()) as screen:
        assert sum(progress_bar(range(3), desc="count", **options)) == 3
    return screen.getvalue()


@pytest.fixture
def bars(monkeypatch):
    monkeypatch.delenv("METABOOK_PROGRESS", raising=False)


def test_a_bar_shows_where_somebody_looks(bars, monkeypatch):
    assert "count: 100%" in shown()
    assert shown(tty=False) == ""
    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    assert "count: 100%" in shown(tty=False)


def test_a_bar_can_be_switched_off(bars, monkeypatch):
    assert shown(show=False) == ""
    monkeypatch.setenv("METABOOK_PROGRESS", "0")
    assert shown() == ""
    monkeypatch.setenv("METABOOK_PROGRESS", "1")
    assert shown() != ""


def test_a_notebook_is_known_by_its_kernel(monkeypatch):
    shells = {"console": object(), "none": None}
    shells["notebook"] = type("Shell", (), {"kernel": 1})()
    for name, shell in shells.items():
        fake = types.SimpleNamespace(get_ipython=lambda shell=shell: shell)
        monkeypatch.setitem(sys.modules, "IPython", fake)
        assert progress._in_notebook() == (name == "notebook")
    monkeypatch.delitem(sys.modules, "IPython")
    assert not progress._in_notebook()


def test_a_disk_too_full_for_the_lock_is_named_and_room_is_the_way_out(
    tmp_path, monkeypatch
):
    def full(handle, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with (
            pytest.raises(OSError, match=r"\.lock cannot be .*make room"),
            locked(tmp_path),
        ):
            pass
    with locked(tmp_path):  # once there is room
        assert (tmp_path / ".lock").read_text("utf8").startswith("process")
