# SPDX-License-Identifier: MIT
"""A loader draws what the tasks draw, in other processes or not."""

import itertools

import pytest
import torch
from test_tasks import numbered_images
from torch import nn
from torch.utils.data import DataLoader

import metabook as mb
from metabook.tasks.episode import as_episodes

PARTS = ("support_x", "support_y", "query_x", "query_y")


def few(**options):
    return mb.FewShotTasks(numbered_images(), 5, 1, 2, **options)


def varied(**options):
    return mb.VariedTasks(numbered_images(), (2, 5), (1, 3), 2, **options)


def same(a, b):
    a, b = as_episodes(a), as_episodes(b)
    return len(a) == len(b) and all(
        torch.equal(getattr(x, name), getattr(y, name))
        for x, y in zip(a, b, strict=True)
        for name in PARTS
    )


@pytest.mark.parametrize("make", [few, varied, mb.Sinusoids])
def test_batches_are_those_of_the_tasks(make):
    tasks = make()
    loader = mb.episode_loader(tasks, 4, start=10, batches=3)
    assert isinstance(loader, DataLoader)
    assert len(loader) == 3
    for _ in range(2):  # a second pass is the same again
        batches = list(loader)
        assert len(batches) == 3
        for i, batch in enumerate(batches):
            assert type(batch) is type(tasks.sample(4))
            assert same(batch, tasks.sample(4, 10 + 4 * i))


def test_unless_said_otherwise_there_is_no_end():
    tasks = mb.Sinusoids()
    loader = mb.episode_loader(tasks, 2)
    last = next(itertools.islice(loader, 500, None))
    assert same(last, tasks.sample(2, 1000))
    with pytest.raises(TypeError):
        len(loader)
    assert same(next(iter(loader)), tasks.sample(2))


def test_what_is_needed_to_go_on_is_known():
    tasks = few()
    loader = mb.episode_loader(tasks, 4, start=8)
    assert loader.tasks is tasks
    assert (loader.tasks_per_batch, loader.start) == (4, 8)
    batches = list(itertools.islice(loader, 5))
    rest = mb.episode_loader(tasks, 4, start=8 + 4 * 3)
    for a, b in zip(batches[3:], rest, strict=False):
        assert same(a, b)


@pytest.mark.parametrize("make", [few, varied])
def test_workers_draw_the_same_episodes(make):
    """Augmented ones too: a worker has a random state of its own."""
    tasks = make(transform=nn.Dropout(0.5), seed=3)
    loader = mb.episode_loader(tasks, 3, start=5, batches=4, workers=2)
    assert loader.multiprocessing_context.get_start_method() == "spawn"
    batches = list(loader)
    assert len(batches) == 4
    for i, batch in enumerate(batches):
        assert same(batch, tasks.sample(3, 5 + 3 * i))
        for drawn, told in zip(
            as_episodes(batch),
            as_episodes(tasks.sample(3, 5 + 3 * i)),
            strict=True,
        ):
            assert drawn.class_names == told.class_names


def test_the_callers_random_numbers_are_as_before():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(mb.episode_loader(few(), 2, batches=2))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.filterwarnings("ignore:Got pickle error")  # newer torch's, first
def test_tasks_that_cannot_be_sent_are_named_and_the_way_out_leads_out():
    tasks = few(transform=lambda x: x + torch.rand(1))
    loader = mb.episode_loader(tasks, 2, batches=1, workers=1)
    with pytest.raises(
        ValueError, match=r"cannot be sent to workers \(.*or use workers=0"
    ):
        iter(loader)
    (batch,) = mb.episode_loader(tasks, 2, batches=1, workers=0)
    assert same(batch, tasks.sample(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": [1, 2]}, r"tasks is a list; it must have a method sample"),
        ({"tasks_per_batch": 0}, "tasks_per_batch is 0; it must be at least 1"),
        ({"start": -1}, "start is -1; it must be at least 0"),
        ({"batches": 0}, "batches is 0; it must be at least 1"),
        ({"workers": -1}, "workers is -1; it must be at least 0"),
    ],
)
def test_impossible_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        mb.episode_loader(**({"tasks": mb.Sinusoids()} | change))
