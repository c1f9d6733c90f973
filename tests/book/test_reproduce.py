# SPDX-License-Identifier: MIT
"""`metabook reproduce`: lists what there is, runs it, resumes it, and says how
it differs from the paper.
"""

import json
import signal
from dataclasses import replace
from importlib.metadata import entry_points

import numpy as np
import pytest

import metabook as mb
from metabook import cli
from metabook.book import reproduce


@pytest.fixture(scope="module")
def characters():
    """A stand-in for Omniglot: 66 classes of handwriting, a third of them for
    testing.
    """
    images = mb.glyphs(classes=99, examples=20, seed=0)
    partition = np.array(["train"] * 60 + ["valid"] * 6 + ["test"] * 33)
    return mb.LabelledImages(
        images.images,
        np.repeat(np.arange(99), 20),
        names=images.names,
        partition=partition,
    )


def test_the_command_is_installed_under_its_name():
    (command,) = entry_points(group="console_scripts", name="metabook")
    assert command.load() is cli.main


def test_without_a_name_every_experiment_is_listed(capsys):
    assert cli.main(["reproduce"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in reproduce.EXPERIMENTS)
    assert "5-way 1-shot 98.8 %" in listed


def test_a_name_that_does_not_exist_is_answered_with_those_that_do(capsys):
    assert cli.main(["reproduce", "protonet"]) == 2
    assert (
        "no experiment is called 'protonet'; there are: protonet-omniglot-1shot"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "name", ["protonet-omniglot-1shot", "maml-omniglot-5way-1shot"]
)
def test_a_result_says_all_that_a_reader_needs(name, characters, tmp_path):
    result = reproduce.reproduce(
        name, iterations=2, episodes=3, runs=tmp_path, images=characters
    )
    assert result["training"]["classes"] == 66, (
        "training and validation classes, never a test class"
    )
    assert {"iterations", "minutes", "seed", "threads"} <= set(
        result["training"]
    )
    assert result["differences"]
    assert result["source"].startswith(("Snell", "Finn"))
    assert result["transductive"] == name.startswith("maml")
    for test in result["tests"]:
        assert test["episodes"] == 3
        assert 0 <= test["rotated"]["accuracy"] <= 100
        assert test["rotated"]["ci95"] > 0
        assert test["paper"] > 95


def test_the_same_line_again_does_not_train_again(
    characters, tmp_path, monkeypatch
):
    def run():
        return reproduce.reproduce(
            "maml-omniglot-5way-1shot",
            iterations=2,
            episodes=3,
            runs=tmp_path,
            images=characters,
        )

    first = run()
    monkeypatch.setattr(
        mb.MAML, "backward", lambda *_: pytest.fail("trained again")
    )
    again = run()
    assert again["tests"] == first["tests"]
    assert again["training"] == first["training"] | {"core_minutes": None}, (
        "of a resumed run they are not known"
    )


@pytest.mark.parametrize(
    ("what", "value"), [("iterations", 0), ("episodes", 0), ("seed", -1)]
)
def test_numbers_out_of_range_are_refused_before_the_work(
    monkeypatch, what, value
):
    monkeypatch.setattr(
        reproduce, "omniglot", lambda **_: pytest.fail("it has begun")
    )
    with pytest.raises(ValueError, match=f"{what} is {value}"):
        reproduce.reproduce("protonet-omniglot-1shot", **{what: value})


# --- the command ---

NAME = "protonet-omniglot-1shot"


@pytest.fixture
def command(characters, tmp_path, monkeypatch):
    """Run the command in an empty folder; returns its exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "omniglot", lambda **_: characters)

    def run(*options):
        try:
            return cli.main(["reproduce", NAME, *map(str, options)])
        except SystemExit as end:
            return end.code

    return run


TRIAL = ("--iterations", 2, "--episodes", 3)


def test_the_command_writes_the_result_with_its_own_line(
    command, tmp_path, capsys
):
    assert command(*TRIAL) == 0
    result = json.loads((tmp_path / "runs" / f"{NAME}-seed0.json").read_text())
    assert (
        result["command"]
        == f"metabook reproduce {NAME} --seed 0 --iterations 2 --episodes 3"
    )
    assert result["environment"]["cores"] >= 1
    assert "20-way 1-shot" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        ("--threads", -1),
        ("--threads", 0),
        ("--iterations", 0),
        ("--iterations", "many"),
        ("--episodes", 0),
        ("--seed", -1),
        ("--out", "."),
        ("--out", "file/result.json"),
        ("--out", ""),
        ("--out", "file"),
    ],
)
def test_arguments_are_checked_before_the_work(
    command, tmp_path, monkeypatch, capsys, options
):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(
        reproduce, "omniglot", lambda **_: pytest.fail("it has begun")
    )
    assert command(*options) == 2
    said = capsys.readouterr().err
    assert options[0] in said or str(options[1]) in said
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_is_not_there_is_made(command, tmp_path):
    assert command(*TRIAL, "--out", "new/deep/x.json", "--runs", "a/b") == 0
    assert json.loads((tmp_path / "new" / "deep" / "x.json").read_text())


def test_a_trial_is_not_written_over_a_full_result(
    command, tmp_path, monkeypatch, capsys
):
    short = replace(reproduce.EXPERIMENTS[NAME], iterations=4)
    monkeypatch.setitem(reproduce.EXPERIMENTS, NAME, short)
    monkeypatch.setattr(reproduce, "EPISODES", 5)
    assert command("--episodes", 5, "--out", "x.json") == 0
    full = (tmp_path / "x.json").read_bytes()
    for trial in (("--iterations", 2), ("--episodes", 3)):
        options = {"--episodes": 5} | dict([trial])
        line = [word for pair in options.items() for word in pair]
        assert command(*line, "--out", "x.json") == 2
        assert "x.json is a full result" in capsys.readouterr().err
        assert (tmp_path / "x.json").read_bytes() == full
        assert command(*line, "--out", "y.json") == 0, "the way out"
        assert command(*line, "--out", "y.json") == 0, "a trial over a trial"
    assert command("--episodes", 6, "--out", "x.json") == 0


def test_a_result_is_json_for_any_parser(command, tmp_path):
    assert command("--iterations", 1, "--episodes", 1, "--out", "x.json") == 0

    def refuse(word):
        pytest.fail(f"{word} is not JSON")

    text = (tmp_path / "x.json").read_text()
    result = json.loads(text, parse_constant=refuse)
    assert result["tests"][0]["rotated"]["ci95"] is None, "of one episode"


def test_a_stopped_command_says_how_to_go_on(command, monkeypatch, capsys):
    original, calls = mb.ProtoNet.backward, []

    def press(self, episode):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return original(self, episode)

    monkeypatch.setattr(mb.ProtoNet, "backward", press)
    assert command("--iterations", 4, "--episodes", 2) == 130
    assert "the same line again goes on" in capsys.readouterr().err
    assert len(calls) == 2
    assert command("--iterations", 4, "--episodes", 2) == 0
    assert len(calls) == 4
