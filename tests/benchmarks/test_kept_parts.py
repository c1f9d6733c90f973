# SPDX-License-Identifier: MIT
"""What a benchmark has finished is not measured again, and what no longer holds
is.
"""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    monkeypatch.syspath_prepend(BENCHMARKS / "speed")


def test_a_result_is_made_once_for_its_settings(tmp_path):
    from cache import Cache

    made = []

    def make(x):
        made.append(x)
        return {"x": (x, x)}

    cache = Cache(tmp_path, {"seeds": (0, 1)})
    assert cache("a", make, 1) == {"x": [1, 1]}, "as a file gives it back"
    assert cache("a", make, 2) == {"x": [1, 1]}
    assert Cache(tmp_path, {"seeds": [0, 1]})("a", make, 3) == {"x": [1, 1]}
    assert Cache(tmp_path, {"seeds": [0, 2]})("a", make, 4) == {"x": [4, 4]}
    assert cache.get("a") is None, "it was made with other settings"
    assert made == [1, 4]


def test_settings_are_replaced_one_by_one_and_a_wrong_name_is_refused():
    from command import changed

    settings = {"training": {"iterations": 600, "lr": 0.1}, "seeds": 3}
    tiny = {"training": {"iterations": 1}}
    assert changed(settings, tiny) == {
        "training": {"iterations": 1, "lr": 0.1},
        "seeds": 3,
    }
    with pytest.raises(KeyError, match="iterations: no such setting"):
        changed(settings, {"iterations": 1})


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A benchmark of two parts: a function of its arguments that returns the
    parts that were measured and the result, if it was written. The process of
    a part is a call.
    """
    import parts

    measured, written = [], []

    def part(name):
        def measure():
            measured.append(name)
            return {"of": name}

        return parts.Part(measure, environment={"NAME": name})

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
        return parts.run(
            "benchmark",
            "A benchmark.",
            "toy",
            lambda quick: {name: part(name) for name in ("first", "second")},
            ["learner"],
            lambda: None,
            lambda done: {"works": done},
        )

    def process(arguments, check, env):
        _, script, *rest = arguments
        assert (script, env["NAME"], check) == ("benchmark", rest[-1], True)
        assert command(*rest) == 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parts.subprocess, "run", process)
    monkeypatch.setattr(parts, "line_of", lambda script: f"python {script}")
    monkeypatch.setattr(
        parts.results, "save", lambda name, result: written.append(result)
    )

    def run(*arguments):
        measured.clear()
        written.clear()
        status = command(*arguments)
        return status, list(measured), list(written)

    return run


RESULT = {
    "command": "python benchmark",
    "works": {"first": {"of": "first"}, "second": {"of": "second"}},
}


def test_a_full_run_goes_on_after_the_parts_that_are_finished(toy):
    assert toy("--work", "second") == (0, ["second"], [])
    assert toy() == (0, ["first"], [RESULT])
    assert toy() == (0, [], [RESULT])
    assert toy("--work", "second") == (0, ["second"], [RESULT])


def test_a_run_that_is_only_a_trial_keeps_nothing(toy, tmp_path):
    assert toy("--quick") == (0, ["first", "second"], [])
    assert toy("--list") == (0, [], [])
    assert toy("--work", "third")[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_with_other_code_everything_is_measured_anew(toy, monkeypatch):
    import parts

    toy()
    monkeypatch.setattr(parts, "files_of", lambda room: [Path(__file__)])
    assert toy()[1] == ["first", "second"]


def test_code_that_has_moved_is_missed():
    import parts

    assert parts.files_of("data/images.py") == [
        parts.PACKAGE / "data" / "images.py"
    ]
    assert parts.PACKAGE / "optimization" / "execution" / "compiled.py" in (
        parts.files_of("optimization")
    )
    with pytest.raises(FileNotFoundError, match="where did it move"):
        parts.files_of("learner.py")
