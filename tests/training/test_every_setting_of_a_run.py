# SPDX-License-Identifier: MIT
"""What a training in a folder is known by: all of it is noted, and nothing of
it may change without a word.
"""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler

import metabook as mb
from metabook.data import files
from metabook.data.differences import differences
from metabook.training.schedules import StepSizes
from metabook.training.state import optimizer_settings
from metabook.training.stream import tasks_settings

WAVES = mb.Sinusoids(shot=5)


def waver():
    torch.manual_seed(3)
    net = nn.Sequential(mb.MLP(1, 4), nn.Dropout(0.1), mb.MLP(4, 1))
    return mb.MAML(net, inner_lr=0.01, loss_fn=F.mse_loss)


def train(folder, learner=None, iterations=2, **options):
    options = {"valid": WAVES, "valid_episodes": 4, "clip": 1.0} | options
    learner = learner or waver()
    return mb.train(learner, WAVES, iterations, 2, checkpoint=folder, **options)


def leaves(value, path=()):
    """Where the values of nested dicts and lists lie."""
    if isinstance(value, dict | list) and value:
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in inside:
            yield from leaves(part, (*path, key))
    else:
        yield path


def name_of(path):
    """As an error calls it."""
    words = (f"[{k}]" if isinstance(k, int) else f".{k}" for k in path)
    return "".join(words).lstrip(".")


def test_all_that_changes_the_result_is_noted(tmp_path):
    train(tmp_path, schedule="cosine")
    found = torch.load(tmp_path / "last.pt")["settings"]
    assert set(found) == {
        *("learner", "frozen", "in_evaluation_mode", "tasks", "first_task"),
        *("tasks_per_batch", "optimizer", "lr", "schedule", "clip", "valid"),
    }
    assert set(found["valid"]) == {"tasks", "episodes", "every"}
    assert set(found["schedule"]) == {"name", "iterations"}


def test_every_single_value_is_compared_and_named(tmp_path):
    train(tmp_path, schedule="cosine")
    content = torch.load(tmp_path / "last.pt")
    paths = list(leaves(content["settings"]))
    assert len(paths) > 40
    for path in paths:
        saved = torch.load(tmp_path / "last.pt")
        of = saved["settings"]
        for key in path[:-1]:
            of = of[key]
        of[path[-1]] = "another"
        files.save_state(tmp_path / "last.pt", saved)
        with pytest.raises(ValueError, match="other settings") as error:
            train(tmp_path, schedule="cosine")
        # another class is another thing, whatever is in it
        name = name_of(path[:-1] if path[-1] == "class" else path)
        assert f"{name} (was " in str(error.value)
        files.save_state(tmp_path / "last.pt", content)
    assert len(train(tmp_path, schedule="cosine").losses) == 2


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("valid.episodes", {"valid_episodes": 5}),
        ("valid.every", {"valid_every": 3}),
    ],
)
def test_another_way_to_validate_is_another_run(tmp_path, name, option):
    train(tmp_path)
    with pytest.raises(ValueError, match=rf"other settings: {name} \(was"):
        train(tmp_path, iterations=3, **option)


@pytest.mark.parametrize("part", ["model.0", "model.1", "model.2"])
def test_another_part_in_evaluation_mode_is_another_run(tmp_path, part):
    train(tmp_path)
    learner = waver()
    learner.get_submodule(part).eval()
    with pytest.raises(ValueError, match=r"other settings: in_evaluation_mode"):
        train(tmp_path, learner, 3)
    train(tmp_path / "another", learner)
    learner = waver()
    learner.get_submodule(part).eval()
    assert len(train(tmp_path / "another", learner, 3).losses) == 3


@pytest.mark.parametrize("others", [1, 2, 3])
def test_other_initial_weights_are_named_and_counted(tmp_path, others):
    train(tmp_path)
    learner = waver()
    names = [name for name, _ in learner.named_parameters()][:others]
    with torch.no_grad():
        for name in names:
            learner.get_parameter(name).add_(1)
    more = ["", " and 1 more", " and 2 more"][others - 1]
    with pytest.raises(
        ValueError, match=f"initial weights differ: {names[0]}{more}\\. Make"
    ):
        train(tmp_path, learner, iterations=3)


# --- optimisers and schedulers of torch ---

ADAM = {"betas": (0.8, 0.9), "eps": 1e-4, "weight_decay": 0.1, "amsgrad": True}
SGD = {"momentum": 0.5, "weight_decay": 0.1, "maximize": True}
OPTIMIZERS = [
    *((torch.optim.Adam, k, v) for k, v in (ADAM | {"maximize": True}).items()),
    *((torch.optim.SGD, k, v) for k, v in SGD.items()),
    (torch.optim.SGD, "dampening", 0.5),
    (torch.optim.RMSprop, "alpha", 0.5),
    (torch.optim.RMSprop, "centered", True),
]


def made(kind, **options):
    return kind(nn.Linear(2, 2).parameters(), lr=0.1, **options)


@pytest.mark.parametrize(("kind", "name", "value"), OPTIMIZERS)
def test_every_option_of_an_optimiser_counts(kind, name, value):
    a, b = made(kind), made(kind, **{name: value})
    found = differences(optimizer_settings(a), optimizer_settings(b))
    assert found and all(f".{name}" in line for line in found), found
    again = made(kind, **{name: value})
    assert optimizer_settings(b) == optimizer_settings(again)


@pytest.mark.parametrize("option", ["foreach", "capturable", "differentiable"])
def test_how_an_optimiser_is_executed_does_not(option):
    plain, other = made(torch.optim.Adam), made(torch.optim.Adam)
    other.param_groups[0][option] = True
    assert optimizer_settings(plain) == optimizer_settings(other)


def test_the_options_of_every_group_of_parameters_count():
    def groups(decay):
        a, b = nn.Linear(1, 1).parameters()
        groups = [{"params": [a]}, {"params": [b], "weight_decay": decay}]
        return torch.optim.SGD(groups, lr=0.1)

    a, b = optimizer_settings(groups(0.1)), optimizer_settings(groups(0.2))
    assert differences(a, b, "optimizer") == [
        "optimizer[1].weight_decay (was 0.1, is 0.2)"
    ]


SCHEDULERS = [
    (lr_scheduler.StepLR, {"step_size": 3, "gamma": 0.5}, {"step_size": 4}),
    (lr_scheduler.StepLR, {"step_size": 3, "gamma": 0.5}, {"gamma": 0.6}),
    (lr_scheduler.MultiStepLR, {"milestones": [2, 4]}, {"milestones": [2, 5]}),
    (lr_scheduler.ExponentialLR, {"gamma": 0.9}, {"gamma": 0.8}),
    (lr_scheduler.CosineAnnealingLR, {"T_max": 9}, {"T_max": 8}),
    (lr_scheduler.CosineAnnealingLR, {"T_max": 9}, {"eta_min": 0.01}),
    (lr_scheduler.CosineAnnealingWarmRestarts, {"T_0": 4}, {"T_0": 5}),
    (lr_scheduler.CosineAnnealingWarmRestarts, {"T_0": 4}, {"T_mult": 2}),
    (lr_scheduler.LinearLR, {"total_iters": 4}, {"total_iters": 5}),
    (lr_scheduler.LinearLR, {"total_iters": 4}, {"start_factor": 0.5}),
    (
        lr_scheduler.LambdaLR,
        {"lr_lambda": lambda i: 0.9**i},
        {"lr_lambda": lambda i: 0.8**i},
    ),
]


@pytest.mark.parametrize(("kind", "plain", "change"), SCHEDULERS)
def test_every_option_of_a_scheduler_counts_and_where_it_is_does_not(
    kind, plain, change
):
    def settings(steps=0, **options):
        sgd = made(torch.optim.SGD)
        scheduler = kind(sgd, **options)
        for _ in range(steps):
            sgd.step()
            scheduler.step()
        return StepSizes(sgd, scheduler, 10).settings()

    before = settings(**plain)
    assert differences(before, settings(**plain | change))
    assert differences(before, settings(**plain)) == []
    assert differences(before, settings(3, **plain)) == []


def test_of_a_scheduler_of_ones_own_what_is_public_must_be_known():
    class Mine(lr_scheduler.StepLR):
        pass

    sgd = made(torch.optim.SGD)
    mine = Mine(sgd, 2)
    plain = StepSizes(sgd, mine, 10).settings()
    mine._cache = object()  # its own business
    assert StepSizes(sgd, mine, 10).settings() == plain
    mine.helper = object()
    with pytest.raises(TypeError, match=r"schedule\.helper is a object"):
        StepSizes(sgd, mine, 10).settings()
    mine.helper = 3  # the way out: something that can be seen
    assert differences(
        plain, StepSizes(sgd, mine, 10).settings(), "schedule"
    ) == ["schedule.helper (was 'not there', is 3)"]


# --- tasks that do not say what they are ---


class Silent:
    """Varied tasks that are known by their episodes alone; one of these may
    have another value somewhere.
    """

    def __init__(self, tasks, changed=None, part=None):
        self.tasks, self.changed, self.part = tasks, changed, part

    def sample(self, tasks, start=0):
        episodes = self.tasks.sample(tasks, start)
        for i, episode in enumerate(episodes, start):
            if i == self.changed:
                tensor = getattr(episode, self.part).clone()
                tensor.view(-1)[-1] += 1
                changed = dataclasses.replace(episode, **{self.part: tensor})
                episodes[i - start] = changed
        return episodes


@pytest.mark.parametrize(
    "part", ["support_x", "support_y", "query_x", "query_y"]
)
@pytest.mark.parametrize("task", range(5))
def test_every_part_of_every_first_task_counts(images, task, part):
    tasks = mb.VariedTasks(images, way=(3, 5), shot=(1, 2), query=2)
    plain = tasks_settings(Silent(tasks), 5)
    assert plain == tasks_settings(Silent(tasks), 5)
    assert plain != tasks_settings(Silent(tasks, task, part), 5)
    assert plain == tasks_settings(Silent(tasks, 5, part), 5)


@pytest.mark.parametrize("task", range(4))
def test_another_varied_task_is_another_run(images, tmp_path, task):
    def fresh():
        torch.manual_seed(3)
        return mb.ProtoNet(nn.Sequential(nn.Flatten(), nn.Linear(784, 3)))

    tasks = mb.VariedTasks(images, way=(3, 5), shot=(1, 2), query=2)
    mb.train(fresh(), Silent(tasks), 1, 2, checkpoint=tmp_path)
    mb.train(fresh(), Silent(tasks), 2, 2, checkpoint=tmp_path)
    other = Silent(tasks, task, "query_x")
    with pytest.raises(ValueError, match=r"other settings: tasks\.episodes"):
        mb.train(fresh(), other, 3, 2, checkpoint=tmp_path)
