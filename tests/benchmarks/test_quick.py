# SPDX-License-Identifier: MIT
"""Every script of the benchmarks runs with ``--quick``: from anywhere, without
data or network, and without leaving anything behind.
"""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from metabook.book import results

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [
    path
    for path in sorted((ROOT / "benchmarks").rglob("*.py"))
    if "__main__" in path.read_text("utf8")
]
COMMITTED = [
    *sorted((ROOT / "metabook" / "book" / "results").glob("*.json")),
    ROOT / "metabook" / "nas" / "glyph_table.json",
]


def name_of(path):
    return str(path.relative_to(ROOT / "benchmarks"))


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_quick_works_and_keeps_nothing(script, tmp_path):
    here, home = tmp_path / "here", tmp_path / "home"
    here.mkdir()
    home.mkdir()
    nowhere = "http://127.0.0.1:9"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "METABOOK_DATA": str(home),
        "XDG_CACHE_HOME": str(home),
        "http_proxy": nowhere,
        "https_proxy": nowhere,
    }
    before = {path: path.read_bytes() for path in COMMITTED}
    run = subprocess.run(
        [sys.executable, script, "--quick"],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        # only for a script that does not know the option and runs in full
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.strip()
    assert list(here.iterdir()) == []
    assert {path: path.read_bytes() for path in COMMITTED} == before


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_the_command_of_a_result_is_one_of_these_scripts(path):
    program, what, *_ = json.loads(path.read_text("utf8"))["command"].split()
    assert program == "metabook" or ROOT / what in SCRIPTS


@pytest.mark.parametrize(
    "script",
    [path for path in SCRIPTS if "\nPROTOCOL = {" in path.read_text("utf8")],
    ids=name_of,
)
def test_the_committed_result_was_made_by_the_protocol_of_its_script(
    script, monkeypatch
):
    monkeypatch.syspath_prepend(script.parent)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    protocol = json.loads(json.dumps(runpy.run_path(script)["PROTOCOL"]))
    folder = ROOT / "metabook" / "nas"
    committed = (
        json.loads((folder / "glyph_table.json").read_text("utf8"))
        if script.stem == "glyph_table"
        else results.load(script.stem)
    )
    assert with_keys_of(protocol, committed) == protocol


def with_keys_of(settings, result):
    """What the result says of the settings; it may say more."""
    if not isinstance(settings, dict):
        return result
    return {key: with_keys_of(settings[key], result[key]) for key in settings}
