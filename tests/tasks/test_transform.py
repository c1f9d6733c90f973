# SPDX-License-Identifier: MIT
"""Augmented tasks are still functions of (seed, i), and leave the caller's
random numbers alone.
"""

import random

import numpy as np
import pytest
import torch
from test_tasks import numbered_images
from torch import nn

import metabook as mb

PARTS = ("support_x", "support_y", "query_x", "query_y")


def by_torch(x):
    return x + torch.randn_like(x)


def by_numpy(x):
    return x + np.random.standard_normal()  # noqa: NPY002


def by_python(x):
    return x * random.random()


NOISE = {f.__name__: f for f in (by_torch, by_numpy, by_python)}
NOISE["dropout"] = nn.Dropout(0.5)


def few(transform=None, seed=0):
    return mb.FewShotTasks(
        numbered_images(), 5, 2, 3, seed=seed, transform=transform
    )


def varied(transform=None, seed=0):
    return mb.VariedTasks(
        numbered_images(), (2, 5), (1, 3), 2, seed=seed, transform=transform
    )


def one_by_one(sample):
    return list(sample.tasks()) if isinstance(sample, mb.Episode) else sample


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("make", [few, varied])
def test_an_augmented_task_depends_on_seed_and_number_alone(make, noise):
    tasks = make(NOISE[noise], seed=4)
    whole = one_by_one(tasks.sample(7, start=2))
    torch.manual_seed(9)
    np.random.seed(9)  # noqa: NPY002
    random.seed(9)
    again = [
        e
        for first, n in ((2, 3), (5, 1), (6, 3))
        for e in one_by_one(tasks.sample(n, first))
    ]
    for a, b in zip(whole, again, strict=True):
        assert all(torch.equal(getattr(a, p), getattr(b, p)) for p in PARTS)
        assert a.class_names == b.class_names


@pytest.mark.parametrize("noise", NOISE)
def test_every_task_and_every_seed_has_noise_of_its_own(noise):
    image = torch.ones(30, 1, 2, 2)  # all alike: what differs is the noise
    images = mb.LabelledImages(image, np.arange(30) % 3)
    draws = [
        mb.FewShotTasks(images, 2, 1, 1, seed=seed, transform=NOISE[noise])
        .sample(20)
        .support_x[:, 0]
        .flatten(1)
        for seed in (0, 1)
    ]
    different = torch.cat(draws).unique(dim=0)
    assert len(different) > (10 if noise == "dropout" else 39)


@pytest.mark.parametrize("make", [few, varied])
def test_the_callers_random_numbers_are_as_before(make):
    def draw():
        return (
            torch.rand(3).tolist(),
            np.random.rand(3).tolist(),  # noqa: NPY002
            [random.random() for _ in range(3)],
        )

    def everything(x):
        draw()
        return x

    def seeded(between):
        torch.manual_seed(3)
        np.random.seed(3)  # noqa: NPY002
        random.seed(3)
        between()
        return draw()

    expected = seeded(lambda: None)
    assert seeded(lambda: make(everything).sample(4)) == expected

    def fail(x):
        draw()
        raise KeyError

    def failing():
        with pytest.raises(KeyError):
            make(fail).sample(4)

    assert seeded(failing) == expected


@pytest.mark.parametrize("make", [few, varied])
def test_a_transform_sees_the_examples_of_one_task_support_first(make):
    seen = []

    def note(x):
        seen.append(x.clone())
        return x.flatten(1) - 0.5  # another shape is allowed

    plain = one_by_one(make().sample(6))
    changed = one_by_one(make(note).sample(6))
    for x, a, b in zip(seen, plain, changed, strict=True):
        together = torch.cat([a.support_x[0], a.query_x[0]])
        assert torch.equal(x, together)
        assert torch.equal(b.support_x, a.support_x.flatten(2) - 0.5)
        assert torch.equal(b.query_x, a.query_x.flatten(2) - 0.5)
        assert torch.equal(b.query_y, a.query_y)


def test_with_one_way_and_one_shot_augmented_tasks_are_alike_too():
    images = numbered_images()
    options = {"way": 4, "shot": 2, "query": 1, "seed": 1}
    batch, listed = (
        one_by_one(kind(images, **options, transform=by_torch).sample(5))
        for kind in (mb.FewShotTasks, mb.VariedTasks)
    )
    for a, b in zip(batch, listed, strict=True):
        assert torch.equal(a.query_x, b.query_x)


def test_a_network_as_transform_leaves_no_graph():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    episode = few(net).sample(2)
    assert episode.query_x.shape == (2, 15, 3)
    assert not episode.query_x.requires_grad


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: x[1:], r"returned shape \(24, 1, 2, 2\); .* 25 examples"),
        (lambda x: x.numpy(), "returned a ndarray; it must return a tensor"),
        (lambda x: None, "returned a NoneType"),
    ],
)
def test_a_transform_that_loses_examples_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        few(wrong).sample(2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_its_random_numbers_are_a_tasks_own_too():
    images = mb.LabelledImages(torch.ones(30, 2).cuda(), np.arange(30) % 3)
    tasks = mb.FewShotTasks(images, 2, 1, 1, transform=by_torch)
    torch.cuda.manual_seed(1)
    expected = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(1)
    whole = tasks.sample(4)
    assert torch.equal(torch.rand(3, device="cuda"), expected)
    assert torch.equal(tasks.sample(1, start=3).query_x, whole.query_x[3:])
