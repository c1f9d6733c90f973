# SPDX-License-Identifier: MIT
"""`metabook reproduce`: lists what there is, runs it, resumes it, and says how
it differs from the paper.
"""

import json
from importlib.metadata import entry_points

import numpy as np
import pytest
import torch

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
    first = reproduce.reproduce(
        "maml-omniglot-5way-1shot", 0, 2, 3, tmp_path, characters
    )
    monkeypatch.setattr(
        mb.MAML, "backward", lambda *_: pytest.fail("trained again")
    )
    again = reproduce.reproduce(
        "maml-omniglot-5way-1shot", 0, 2, 3, tmp_path, characters
    )
    assert again["tests"] == first["tests"]
    assert again["training"] == first["training"] | {"core_minutes": None}, (
        "of a resumed run they are not known"
    )


def test_the_command_writes_the_result_with_its_own_line(
    characters, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(reproduce, "omniglot", lambda **_: characters)
    line = [
        "reproduce",
        "protonet-omniglot-1shot",
        "--iterations",
        "2",
        "--episodes",
        "3",
        "--runs",
        str(tmp_path),
    ]
    torch.manual_seed(0)
    assert cli.main(line) == 0
    result = json.loads(
        (tmp_path / "protonet-omniglot-1shot-seed0.json").read_text("utf8")
    )
    assert (
        result["command"]
        == "metabook reproduce protonet-omniglot-1shot --seed 0 --iterations 2"
        " --episodes 3"
    )
    assert result["environment"]["cores"] >= 1
    assert "20-way 1-shot" in capsys.readouterr().out
