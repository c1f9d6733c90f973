# SPDX-License-Identifier: MIT
"""The programs on the pages run, and are the same in both editions."""

import re
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

import metabook as mb

ROOT = Path(__file__).resolve().parents[2]


def programs(language, page):
    text = (ROOT / "book" / language / f"{page}.md").read_text("utf8")
    return re.findall(r"```python\n(.*?)```", text, re.S)


@pytest.mark.parametrize("page", ["your_own_network", "save_load_predict"])
def test_both_editions_have_the_same_programs(page):
    assert programs("en", page) == programs("zh", page)


@pytest.mark.parametrize("program", programs("en", "your_own_network"))
def test_a_program_with_ones_own_network_or_data_runs(program):
    if program.startswith("# no run"):
        compile(program, "page", "exec")
        return
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(program, "your_own_network", "exec"), {"__name__": "page"})


@pytest.mark.parametrize("logger", ["SummaryWriter", "wandb"])
def test_the_recipes_for_loggers_log_every_iteration(logger):
    recipes = programs("en", "your_own_network")
    (recipe,) = (r for r in recipes if logger in r and r.startswith("# no run"))
    logged = []

    class Fake:
        def __init__(self, *where, **options):
            pass

        def add_scalar(self, tag, value, step):
            logged.append((tag, value, step))

        def log(self, values, step):
            ((tag, value),) = values.items()
            self.add_scalar(tag, value, step)

        @staticmethod
        def init(**options):
            return Fake()

    lines = [ln for ln in recipe.splitlines() if "import" not in ln]
    learner = mb.MAML(mb.MLP(1, 1), loss_fn=torch.nn.functional.mse_loss)
    few = {"iterations": 3, "tasks_per_batch": 2, "progress": False}
    names = {
        "SummaryWriter": Fake,
        "wandb": Fake,
        "learner": learner,
        "tasks": mb.Sinusoids(),
        "mb": type(
            "mb", (), {"train": lambda *a, **o: mb.train(*a, **o, **few)}
        ),
    }
    exec("\n".join(lines), names)
    assert [step for _, _, step in logged] == [1, 2, 3]
    assert all(tag == "loss" and value > 0 for tag, value, _ in logged)


def test_a_picture_is_named_by_another_program(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    signs = mb.glyphs(classes=3, examples=5, seed=9)
    for c, name in enumerate(["anchor", "bridge", "candle"]):
        (tmp_path / "drawings" / name).mkdir(parents=True)
        for i in range(4):
            ink = signs.images[5 * c + i, 0].numpy()
            file = tmp_path / "drawings" / name / f"{i}.png"
            Image.fromarray(255 - ink).save(file)
    (tmp_path / "new").mkdir()
    ink = signs.images[0, 0].numpy()
    Image.fromarray(255 - ink).save(tmp_path / "new" / "a.png")
    train, name, own = programs("en", "save_load_predict")
    train = train.replace("iterations=500", "iterations=20")
    exec(train.replace("classes=1000", "classes=60"), {})
    exec(name, {})
    assert capsys.readouterr().out.strip() == "anchor"
    names = {}
    exec(own, names)
    assert isinstance(names["learner"], mb.MAML)
