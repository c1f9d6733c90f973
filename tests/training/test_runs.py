# SPDX-License-Identifier: MIT
"""Trainings that are kept in a folder: stopped anywhere, they end with the bits
of one that was not; and a folder never gives another run's result.
"""

import errno
import itertools
import json
import os
import random
import re
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import small_conv
from processes import Child
from torch import nn
from torch.optim import lr_scheduler

import metabook as mb
from metabook.data import files
from metabook.data.lock import locked

WAVES = mb.Sinusoids(shot=5)


def fresh(seed=3):
    torch.manual_seed(seed)
    return mb.ProtoNet(nn.Sequential(small_conv(norm="batch"), nn.Dropout(0.2)))


def waver(seed=3, **options):
    torch.manual_seed(seed)
    options = {"inner_lr": 0.01, "loss_fn": F.mse_loss} | options
    return mb.MAML(mb.MLP(1, 1, hidden=(4,)), **options)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def train(learner, tasks=WAVES, iterations=4, tasks_per_batch=2, **options):
    return mb.train(learner, tasks, iterations, tasks_per_batch, **options)


def log(folder):
    return [
        json.loads(line)
        for line in (folder / "log.jsonl").read_text().splitlines()
    ]


class Stop(Exception):
    pass


def stop_after(iterations):
    def stop(iteration, loss, learner):
        if iteration == iterations:
            raise Stop

    return stop


# --- resuming ---


def loader(tasks, **options):
    return mb.episode_loader(tasks, 2, **options)


@pytest.mark.parametrize(
    "kind",
    ["constant", "cosine", "function", "torch", "clip", "loader", "no valid"],
)
def test_a_resumed_run_ends_with_the_same_bits(tasks, tmp_path, kind):
    def run(stop=99, folder=None, seed=11):
        learner = fresh()
        options = {"valid": tasks, "valid_episodes": 4, "valid_every": 3}
        source = tasks
        if kind in ("constant", "cosine"):
            options["schedule"] = kind
        if kind == "function":
            options["schedule"] = lambda done: 1 - done / 2
        if kind == "torch":
            sgd = torch.optim.SGD(learner.parameters(), lr=0.1, momentum=0.9)
            warm = lr_scheduler.LinearLR(sgd, total_iters=4)
            down = lr_scheduler.LambdaLR(sgd, lambda i: 0.9**i)
            both = lr_scheduler.SequentialLR(sgd, [warm, down], [4])
            options |= {"optimizer": sgd, "schedule": both}
        if kind == "clip":
            options["clip"] = 0.1
        if kind == "loader":
            source = loader(tasks)
        if kind == "no valid":
            options = {}
        torch.manual_seed(seed)
        history = train(
            learner, source, 10, checkpoint=folder, checkpoint_every=4,
            on_iteration=stop_after(stop), **options,
        )  # fmt: skip
        return learner, history

    whole, straight = run()
    for stop, seed in ((3, 11), (7, 98)):  # the random state comes with the run
        with pytest.raises(Stop):
            run(stop, tmp_path, seed)
    parted, resumed = run(folder=tmp_path, seed=99)
    assert same(whole, parted)
    assert resumed.losses == straight.losses
    assert resumed.validations == straight.validations
    assert [line["loss"] for line in log(tmp_path)] == straight.losses


def test_a_loader_and_its_tasks_are_the_same_run(tasks, tmp_path):
    plain, mixed = fresh(), fresh()
    torch.manual_seed(1)
    train(plain, tasks)
    torch.manual_seed(1)
    train(mixed, tasks, 2, checkpoint=tmp_path)
    mixed = fresh()
    train(mixed, loader(tasks), 4, 99, checkpoint=tmp_path)
    assert same(plain, mixed)


def test_a_loader_that_is_too_short_says_so(tmp_path):
    with pytest.raises(ValueError, match="after 20 of 30 iterations"):
        train(waver(), loader(WAVES, batches=20), 30, checkpoint=tmp_path)
    assert len(log(tmp_path)) == 20, "what is done is kept"
    straight, learner = waver(), waver()
    train(straight, iterations=30)
    train(learner, loader(WAVES), 30, checkpoint=tmp_path)
    assert same(straight, learner)


@pytest.mark.parametrize("batches", [None, 9])
def test_a_loader_goes_on_where_it_was_without_drawing_again(batches):
    whole = list(itertools.islice(loader(WAVES, start=5, batches=9), 9))
    left = list(
        itertools.islice(loader(WAVES, start=5, batches=batches).after(6), 3)
    )
    for a, b in zip(whole[6:], left, strict=True):
        assert torch.equal(a.query_y, b.query_y)

    class Once(mb.Sinusoids):
        def sample(self, n, start=0):
            assert start >= 12, "drawn again"
            return super().sample(n, start)

    assert len(next(iter(loader(Once()).after(6)))) == 2


def test_a_finished_run_can_be_loaded_and_lengthened(tasks, tmp_path):
    a, b = fresh(), fresh()
    train(a, tasks, checkpoint=tmp_path)
    history = train(b, tasks, checkpoint=tmp_path)
    assert same(a, b)
    assert len(history.losses) == 4
    assert not b.training
    longer = train(b, tasks, iterations=6, checkpoint=tmp_path)
    assert len(longer.losses) == 6


def test_a_run_with_validation_can_be_lengthened(tasks, tmp_path):
    for iterations in (2, 4):
        history = train(
            fresh(), tasks, iterations, valid=tasks, valid_episodes=4,
            checkpoint=tmp_path,
        )  # fmt: skip
    assert [i for i, *_ in history.validations] == [2, 4]


@pytest.mark.parametrize("where", ["backward", "validation"])
def test_ctrl_c_finishes_the_iteration_saves_and_resumes_to_the_same_bits(
    tasks, tmp_path, where
):
    """Pressed where nearly all the time goes, when batch norm and dropout have
    already moved on.
    """
    options = {"valid": tasks, "valid_episodes": 4, "valid_every": 3}
    straight, stopped, again = fresh(), fresh(), fresh()
    torch.manual_seed(5)
    expected = train(straight, tasks, 6, **options)

    calls = []

    def interrupt(*_):
        calls.append(stopped.training)
        if (where == "backward" and len(calls) == 3) or (
            where == "validation" and not stopped.training and sum(calls) == 3
        ):
            signal.raise_signal(signal.SIGINT)

    stopped.register_forward_pre_hook(interrupt)
    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, tasks, 6, checkpoint=tmp_path, **options)
    assert len(log(tmp_path)) == 3
    resumed = train(again, tasks, 6, checkpoint=tmp_path, **options)
    assert same(straight, again)
    assert resumed.losses == expected.losses
    assert resumed.validations == expected.validations


def test_ctrl_c_while_an_episode_is_drawn_keeps_what_is_done(tmp_path):
    class Slow(mb.Sinusoids):
        def sample(self, n, start=0):
            if start >= 6:
                signal.raise_signal(signal.SIGINT)
            return super().sample(n, start)

    with pytest.raises(KeyboardInterrupt):
        train(waver(), Slow(shot=5), 9, checkpoint=tmp_path)
    assert len(log(tmp_path)) == 3


def work(folder, say=lambda iteration: None):
    """A run to be killed; returns the weights at its end."""
    torch.manual_seed(0)
    net = nn.Sequential(mb.MLP(1, 8), nn.Dropout(0.1), mb.MLP(8, 1))
    learner = mb.MAML(net, inner_lr=0.01, loss_fn=F.mse_loss)
    torch.manual_seed(1)
    train(
        learner,
        iterations=120,
        schedule="cosine",
        valid=WAVES,
        valid_episodes=4,
        valid_every=10,
        checkpoint=folder,
        checkpoint_every=1,
        on_iteration=lambda iteration, loss, learner: say(iteration),
    )
    return learner


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(tmp_path):
    parted = tmp_path / "parted"
    whole, rng, reached = work(tmp_path / "whole"), random.Random(0), []
    for _ in range(12):
        words = rng.randrange(2, 6)
        with Child(lambda say: work(parted, say), words + 3) as child:
            for _ in range(words):
                reached.append(child.line())
            time.sleep(rng.random() * 0.01)  # in an iteration or in a save
    assert 12 <= int(reached[-1]) < 120, "none has reached the end"
    assert same(work(parted), whole)
    assert log(parted) == log(tmp_path / "whole")
    assert not list(parted.glob("*.part"))


# --- the log and the best weights ---


def test_the_log_is_strict_json_with_a_line_an_iteration(tasks, tmp_path):
    history = train(
        fresh(), tasks, valid=tasks, valid_episodes=1, valid_every=2,
        checkpoint=tmp_path,
    )  # fmt: skip
    assert "Infinity" not in (tmp_path / "log.jsonl").read_text()
    lines = log(tmp_path)
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4]
    assert [line["loss"] for line in lines] == history.losses
    assert [line["iteration"] for line in lines if "valid" in line] == [2, 4]
    assert lines[1]["ci95"] is None, "of a single episode"


def test_a_log_is_added_to_and_mended_after_a_kill(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        "metabook.training.checkpoints.append",
        lambda path, data: (written.append(data), files.append(path, data)),
    )
    train(waver(), checkpoint=tmp_path, checkpoint_every=1)
    assert [data.count(b"\n") for data in written] == [1, 1, 1]
    whole = (tmp_path / "log.jsonl").read_bytes()
    for left in (whole[:-9], whole + b'{"iteration": 5, "lo', whole * 2, b""):
        (tmp_path / "log.jsonl").write_bytes(left)
        with pytest.raises(Stop):
            train(
                waver(), iterations=9, checkpoint=tmp_path,
                on_iteration=stop_after(5),
            )  # fmt: skip
        lines = log(tmp_path)
        assert [line["iteration"] for line in lines] == [1, 2, 3, 4, 5]
        train(waver(), iterations=5, checkpoint=tmp_path)
        files_of_four = torch.load(tmp_path / "last.pt")
        files_of_four["state"]["losses"] = files_of_four["state"]["losses"][:4]
        files.save_state(tmp_path / "last.pt", files_of_four)


@pytest.mark.parametrize("valid", [None, WAVES])
def test_the_best_weights_are_a_file_to_load(tmp_path, valid):
    learner = waver()
    train(learner, valid=valid, valid_episodes=4, checkpoint=tmp_path)
    other = waver(9)
    assert not same(learner, other)
    other.load_state_dict(torch.load(tmp_path / "best.pt", weights_only=True))
    assert same(learner, other)


# --- whose run it is ---


def settled(**changes):
    """Arguments of a training, some of them changed."""
    learner = changes.pop("learner", None) or waver()
    if callable(changes.get("optimizer")):
        changes["optimizer"] = changes["optimizer"](learner)
    if callable(changes.get("schedule")) and "optimizer" in changes:
        changes["schedule"] = changes["schedule"](changes["optimizer"])
    return learner, {"checkpoint_every": 1} | changes


def smoothed(eps):
    return lambda p, t: F.mse_loss(p, t) * (1 - eps)


def few_shot(images, **changes):
    numbers = {"way": 5, "shot": 1, "query": 2, "seed": 0} | changes
    return mb.FewShotTasks(images, **numbers)


class OwnTasks:
    """Without a word of what they are."""

    def __init__(self, seed):
        self.waves = mb.Sinusoids(shot=5, seed=seed)

    def sample(self, tasks, start=0):
        return self.waves.sample(tasks, start)


CE = nn.CrossEntropyLoss


def proto(**options):
    torch.manual_seed(3)
    return mb.ProtoNet(small_conv(norm="batch"), **options)


def matching(**options):
    torch.manual_seed(3)
    return mb.MatchingNet(small_conv(norm="batch"), **options)


def classifier(**options):
    torch.manual_seed(3)
    return mb.MAML(mb.MLP(784, 5, hidden=(4,)), **options)


def sgd(**options):
    return lambda learner: torch.optim.SGD(
        learner.parameters(), **{"lr": 0.1} | options
    )


def step_lr(gamma):
    return lambda optimizer: lr_scheduler.StepLR(optimizer, 2, gamma)


OTHERS = {
    "inner_lr": (lambda _: {}, lambda _: {"learner": waver(inner_lr=0.02)}),
    "temperature": (
        lambda i: {"learner": proto(), "tasks": few_shot(i)},
        lambda i: {"learner": proto(temperature=2.0), "tasks": few_shot(i)},
    ),
    "log_scale": (
        lambda i: {"learner": matching(), "tasks": few_shot(i)},
        lambda i: {"learner": matching(scale=2.0), "tasks": few_shot(i)},
    ),
    "label_smoothing": (
        lambda i: {
            "learner": classifier(loss_fn=CE(label_smoothing=0.0)),
            "tasks": few_shot(i),
        },
        lambda i: {
            "learner": classifier(loss_fn=CE(label_smoothing=0.1)),
            "tasks": few_shot(i),
        },
    ),
    "loss_fn": (
        lambda _: {"learner": waver(loss_fn=smoothed(0.0))},
        lambda _: {"learner": waver(loss_fn=smoothed(0.1))},
    ),
    "loss_fn.code": (
        lambda _: {"learner": waver(loss_fn=lambda p, t: (p - t).pow(2).sum())},
        lambda _: {"learner": waver(loss_fn=lambda p, t: (p - t).abs().sum())},
    ),
    "the initial weights differ": (
        lambda _: {},
        lambda _: {"learner": waver(seed=4)},
    ),
    "frozen": (
        lambda _: {},
        lambda _: {"learner": frozen(waver())},
    ),
    "in_evaluation_mode": (
        lambda i: {"learner": proto(), "tasks": few_shot(i)},
        lambda i: {"learner": still(proto()), "tasks": few_shot(i)},
    ),
    "tasks.transform.closure.factor": (
        lambda i: {
            "learner": classifier(),
            "tasks": few_shot(i, transform=brighter(1.0)),
        },
        lambda i: {
            "learner": classifier(),
            "tasks": few_shot(i, transform=brighter(1.1)),
        },
    ),
    "tasks.seed": (
        lambda i: {"learner": classifier(), "tasks": few_shot(i)},
        lambda i: {"learner": classifier(), "tasks": few_shot(i, seed=1)},
    ),
    "tasks.shot": (lambda _: {}, lambda _: {"tasks": mb.Sinusoids(shot=6)}),
    "tasks.images": (
        lambda i: {"learner": classifier(), "tasks": few_shot(i)},
        lambda i: {
            "learner": classifier(),
            "tasks": few_shot(i.subset(range(39, -1, -1))),
        },
    ),
    "tasks.episodes": (
        lambda _: {"tasks": OwnTasks(0)},
        lambda _: {"tasks": OwnTasks(1)},
    ),
    "tasks_per_batch": (lambda _: {}, lambda _: {"tasks_per_batch": 3}),
    "first_task": (
        lambda _: {"tasks": loader(WAVES)},
        lambda _: {"tasks": loader(WAVES, start=2)},
    ),
    "lr": (lambda _: {}, lambda _: {"lr": 0.5}),
    "momentum": (
        lambda _: {"optimizer": sgd(momentum=0.9)},
        lambda _: {"optimizer": sgd(momentum=0.8)},
    ),
    "optimizer": (lambda _: {}, lambda _: {"optimizer": sgd()}),
    "schedule": (lambda _: {}, lambda _: {"schedule": "cosine"}),
    "schedule.name.code": (
        lambda _: {"schedule": lambda done: 1 - done},
        lambda _: {"schedule": lambda done: 1 + done},
    ),
    "schedule.iterations": (
        lambda _: {"schedule": "cosine"},
        lambda _: {"schedule": "cosine", "iterations": 8},
    ),
    "schedule.gamma": (
        lambda _: {"optimizer": sgd(), "schedule": step_lr(0.5)},
        lambda _: {"optimizer": sgd(), "schedule": step_lr(0.6)},
    ),
    "clip": (lambda _: {}, lambda _: {"clip": 1.0}),
    "valid": (lambda _: {}, lambda _: {"valid": WAVES}),
    "valid.tasks.seed": (
        lambda _: {"valid": mb.Sinusoids()},
        lambda _: {"valid": mb.Sinusoids(seed=1)},
    ),
    "valid.every": (
        lambda _: {"valid": WAVES},
        lambda _: {"valid": WAVES, "valid_every": 3},
    ),
}


def brighter(factor):
    return lambda x: factor * x


def still(learner):
    for module in learner.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return learner


def frozen(learner):
    next(learner.parameters()).requires_grad_(False)
    return learner


@pytest.mark.parametrize("name", OTHERS)
def test_another_run_in_the_same_folder_is_refused_by_name(
    tmp_path, images, name
):
    first, second = OTHERS[name]
    learner, options = settled(**first(images))
    train(learner, checkpoint=tmp_path, **options)
    before = (tmp_path / "last.pt").read_bytes()
    learner, options = settled(**second(images))
    with pytest.raises(ValueError, match=rf"holds a.*training.*\b{name}\b"):
        train(learner, checkpoint=tmp_path, **{"iterations": 6} | options)
    assert (tmp_path / "last.pt").read_bytes() == before
    # the way out
    train(learner, checkpoint=tmp_path / "another", **options)


@pytest.mark.parametrize(
    "change",
    [
        lambda: {},
        lambda: {"checkpoint_every": 7},
        lambda: {"progress": False},
        lambda: {"on_iteration": lambda *_: None},
        lambda: {
            "optimizer": lambda learner: torch.optim.Adam(
                learner.parameters(), foreach=True
            )
        },
        lambda: {"schedule": "constant"},
    ],
)
def test_what_does_not_change_the_result_is_accepted(tmp_path, change):
    straight, learner = waver(), waver()
    train(straight, iterations=6)
    train(learner, checkpoint=tmp_path)
    learner, options = settled(**change())
    train(learner, iterations=6, checkpoint=tmp_path, **options)
    for a, b in zip(straight.parameters(), learner.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        lambda: partial(F.smooth_l1_loss, beta=0.5),
        lambda: lambda p, t: (p - t).abs().mean(),
        lambda: smoothed(0.1),
        lambda: nn.SmoothL1Loss(beta=0.5),
    ],
)
def test_a_loss_that_is_made_anew_is_the_same_loss(tmp_path, loss):
    for iterations in (2, 4):
        learner = waver(loss_fn=loss())
        train(learner, iterations=iterations, checkpoint=tmp_path)
    assert len(log(tmp_path)) == 4


def test_a_default_that_a_later_torch_adds_is_no_other_setting(
    tmp_path, monkeypatch
):
    """A run of the older one is taken up, and so is one of the newer."""
    train(waver(), iterations=2, checkpoint=tmp_path)

    def newer(learner):
        adam = torch.optim.Adam(learner.parameters(), lr=1e-3)
        for group in adam.param_groups:
            group["sharpness"] = 0.5
        return adam

    learner, options = settled(optimizer=newer)
    train(learner, checkpoint=tmp_path, **options)
    groups = options["optimizer"].param_groups
    assert all(group["sharpness"] == 0.5 for group in groups)
    train(waver(), iterations=6, checkpoint=tmp_path)
    straight = waver()
    train(straight, iterations=6)
    learner = waver()
    train(learner, iterations=6, checkpoint=tmp_path)
    assert same(straight, learner)


def test_a_learner_that_has_the_runs_weights_may_go_on(tmp_path):
    """In the same program, or after loading them as the error advises."""
    options = {"valid": WAVES, "valid_episodes": 4, "valid_every": 1}
    options |= {"lr": 0.3, "checkpoint": tmp_path}
    learner, straight = waver(), waver()
    train(learner, **options)
    train(learner, iterations=6, **options)
    train(straight, iterations=6, **options | {"checkpoint": None})
    assert same(learner, straight)
    other = waver(seed=8)
    with pytest.raises(ValueError, match=r"torch\.load") as error:
        train(other, iterations=8, **options)
    (way_out,) = re.findall(
        r"learner\.load_state_dict.*'\)\)", str(error.value)
    )
    exec(way_out, {"learner": other, "torch": torch})
    assert len(train(other, iterations=8, **options).losses) == 8


def test_after_an_error_the_same_line_goes_on_in_the_same_program(tmp_path):
    class Fragile(mb.Sinusoids):
        broken = True

        def sample(self, n, start=0):
            episode = super().sample(n, start)
            if self.broken and start >= 10:
                episode.query_y.fill_(float("nan"))
            return episode

    tasks, learner, straight = Fragile(), waver(), waver()
    with pytest.raises(FloatingPointError):
        train(learner, tasks, 9, checkpoint=tmp_path, checkpoint_every=2)
    Fragile.broken = False
    train(learner, tasks, 9, checkpoint=tmp_path, checkpoint_every=2)
    train(straight, tasks, 9)
    assert same(learner, straight)

    learner = waver()
    train(learner, tasks, 2, checkpoint=tmp_path / "b")
    nn.init.ones_(next(learner.parameters()))  # no longer what training left
    with pytest.raises(ValueError, match="the initial weights differ"):
        train(learner, tasks, 4, checkpoint=tmp_path / "b")


def test_fewer_iterations_than_the_folder_holds_are_refused(tmp_path):
    train(waver(), iterations=3, checkpoint=tmp_path)
    with pytest.raises(
        ValueError, match="holds 3 iterations already, more than 2"
    ):
        train(waver(), iterations=2, checkpoint=tmp_path)


# --- files that are not what they should be ---


@pytest.fixture
def kept(tmp_path):
    """A folder with a run of two iterations."""
    train(waver(), iterations=2, checkpoint=tmp_path)
    return tmp_path


def refused(folder, match, **options):
    before = (folder / "last.pt").read_bytes()
    with pytest.raises(ValueError, match=match) as error:
        train(waver(), checkpoint=folder, **options)
    assert str(folder) in str(error.value)
    assert "folder" in str(error.value), "the way out"
    assert (folder / "last.pt").read_bytes() == before


def test_a_state_cut_short_is_explained(kept):
    whole = (kept / "last.pt").read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        (kept / "last.pt").write_bytes(whole[:length])
        refused(kept, r"last\.pt is not a readable checkpoint")
    (kept / "last.pt").write_bytes(whole)
    train(waver(), checkpoint=kept)


@pytest.mark.parametrize("key", ["format", "kind", "settings", "state"])
def test_a_missing_key_is_named(kept, key):
    content = torch.load(kept / "last.pt")
    del content[key]
    files.save_state(kept / "last.pt", content)
    refused(kept, rf"lacks \['{key}'\]")


@pytest.mark.parametrize("key", ["learner", "losses", "random"])
def test_a_missing_part_of_the_state_is_named(kept, key):
    content = torch.load(kept / "last.pt")
    del content["state"][key]
    files.save_state(kept / "last.pt", content)
    refused(kept, rf"lacks \['{key}'\]")


def test_a_key_too_many_is_named(kept):
    content = torch.load(kept / "last.pt")
    files.save_state(kept / "last.pt", content | {"more": 1})
    refused(kept, r"has \['more'\] that nobody reads")
    content["state"]["more"] = 1
    files.save_state(kept / "last.pt", content)
    refused(kept, r"has \['more'\] that nobody reads")


def test_a_state_that_does_not_fit_is_explained(kept):
    content = torch.load(kept / "last.pt")
    del content["state"]["optimizer"]["param_groups"]
    files.save_state(kept / "last.pt", content)
    refused(kept, "param_groups")


def test_another_format_is_refused_by_its_number(kept):
    content = torch.load(kept / "last.pt")
    files.save_state(kept / "last.pt", content | {"format": 7})
    refused(kept, "has the format 7, and this version of metabook reads 1")


def test_the_folder_of_a_search_is_no_training_and_the_reverse(tmp_path):
    space = mb.nas.SearchSpace({"width": [1, 2, 3]})

    def search(folder):
        mb.nas.search(
            mb.nas.RandomSearch(space), lambda a: a[0], 3, checkpoint=folder
        )

    search(tmp_path / "search")
    refused(tmp_path / "search", "is a search, and this is a training")
    train(waver(), checkpoint=tmp_path / "training")
    with pytest.raises(ValueError, match="is a training, and this is a search"):
        search(tmp_path / "training")


def test_no_name_and_the_name_of_a_file_are_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="checkpoint is empty: name a folder"):
        train(waver(), checkpoint="")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="file is a file"):
        train(waver(), checkpoint=tmp_path / "file")
    with pytest.raises(OSError, match="file"):
        train(waver(), checkpoint=tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("at", ["best.pt", "log.jsonl", "last.pt"])
def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(
    tmp_path, monkeypatch, at
):
    straight, learner = waver(), waver()
    train(straight, iterations=6)
    train(learner, iterations=2, checkpoint=tmp_path)
    before = (tmp_path / "last.pt").read_bytes()

    write = Path.write_bytes

    def full(self, data):
        if self.name.startswith(at):
            write(self, bytes(data)[:50])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=f"{at} could not be written.*Make room"):
        train(waver(), iterations=6, checkpoint=tmp_path, checkpoint_every=2)
    assert (tmp_path / "last.pt").read_bytes() == before
    monkeypatch.undo()
    learner = waver()
    train(learner, iterations=6, checkpoint=tmp_path)
    assert same(straight, learner)
    assert len(log(tmp_path)) == 6


def test_what_a_killed_save_has_left_is_removed(kept):
    for name in ("last.pt.123.part", "log.jsonl.9.part", "best.pt.1.part"):
        (kept / name).write_bytes(b"half")
    (kept / "mine.txt").touch()
    train(waver(), iterations=2, checkpoint=kept)
    assert len(list(kept.glob("*.part"))) == 3, "only reading changes nothing"
    train(waver(), checkpoint=kept)
    names = {"last.pt", "best.pt", "log.jsonl", ".lock", "mine.txt"}
    assert {path.name for path in kept.iterdir()} == names


def test_two_processes_do_not_write_in_one_folder(tmp_path):
    with Child(lambda say: work(tmp_path, say)) as child:
        assert child.line() == "1"  # it is at work
        with pytest.raises(
            BlockingIOError, match=f"written by process {child.pid} on"
        ) as error:
            work(tmp_path)
        assert str(tmp_path) in str(error.value)
    work(tmp_path)  # the lock has died with it


def test_a_run_that_has_ended_is_read_by_many(kept):
    with locked(kept):
        assert len(train(waver(), iterations=2, checkpoint=kept).losses) == 2
        with pytest.raises(
            BlockingIOError, match="another run in this program"
        ):
            train(waver(), iterations=3, checkpoint=kept)


def test_a_run_that_has_ended_is_read_where_nobody_may_write(kept, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    for name in ("open", "mkdir", "replace", "unlink"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(Path, "write_bytes", refuse)
    learner = waver()
    assert len(train(learner, iterations=2, checkpoint=kept).losses) == 2
    with pytest.raises(
        PermissionError, match="cannot be written.*choose another folder"
    ):
        train(learner, iterations=3, checkpoint=kept)


def test_a_state_that_could_not_be_loaded_again_is_noticed_at_the_first_save(
    tmp_path,
):
    class Odd(mb.MAML):
        def get_extra_state(self):
            return Path("somewhere")

        def set_extra_state(self, state):
            pass

    learner = Odd(mb.MLP(1, 1), loss_fn=F.mse_loss)
    with pytest.raises(TypeError, match="the state cannot be loaded again"):
        train(learner, checkpoint=tmp_path, checkpoint_every=1)
