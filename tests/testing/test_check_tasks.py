# SPDX-License-Identifier: MIT
"""Tasks that break the contract are caught, and told which clause."""

import random

import numpy as np
import pytest
import torch

import metabook as mb
from metabook.testing import check_tasks


@pytest.fixture
def families(images):
    return {
        "few-shot": mb.FewShotTasks(images, way=5, shot=2, query=3, seed=1),
        "varied": mb.VariedTasks(images, way=(2, 5), shot=(1, 3), seed=1),
        "sinusoids": mb.Sinusoids(seed=1),
    }


@pytest.mark.parametrize("name", ["few-shot", "varied", "sinusoids"])
def test_the_tasks_of_the_package_keep_the_contract(name, families):
    before = torch.get_rng_state()
    check_tasks(families[name])
    assert torch.equal(before, torch.get_rng_state())


class Lines:
    """What a student might hand in, y = a x with another a; it is right."""

    def generator(self, i):
        return torch.Generator().manual_seed(1000 + i)

    def sample(self, tasks, start=0):
        x, y = [], []
        for i in range(start, start + tasks):
            generator = self.generator(i)
            x.append(torch.randn(8, 1, generator=generator))
            y.append(x[-1] * torch.randn(1, generator=generator))
        x, y = torch.stack(x), torch.stack(y)
        return mb.Episode(x[:, :3], y[:, :3], x[:, 3:], y[:, 3:])


class Classes(Lines):
    """Points around the means of three classes; right too."""

    labels = (4, 7, 9)

    def sample(self, tasks, start=0):
        drawn = [self.task(i) for i in range(start, start + tasks)]
        x, y = map(torch.stack, zip(*drawn, strict=True))
        return mb.Episode(x[:, ::2], y[:, ::2], x[:, 1::2], y[:, 1::2])

    def task(self, i):
        generator = self.generator(i)
        y = torch.tensor(self.labels).repeat_interleave(4)
        means = torch.randn(3, 2, generator=generator)
        noise = 0.1 * torch.randn(12, 2, generator=generator)
        return means.repeat_interleave(4, dim=0) + noise, y


@pytest.mark.parametrize("right", [Lines, Classes])
def test_tasks_that_are_right_pass(right):
    check_tasks(right())


class AlwaysEight(Lines):
    def sample(self, tasks, start=0):
        return super().sample(8, start)


class OneTooFew(Lines):
    """Only where it is asked for several."""

    def sample(self, tasks, start=0):
        return super().sample(max(1, tasks - 1), start)


class GlobalTorch(Lines):
    def generator(self, i):
        return torch.default_generator


class GlobalNumpy(Lines):
    def generator(self, i):
        seed = np.random.randint(1000)  # noqa: NPY002
        return torch.Generator().manual_seed(int(seed))


class GlobalPython(Lines):
    def generator(self, i):
        return torch.Generator().manual_seed(random.randrange(1000))


class SetsTheGlobalSeed(Lines):
    """The same tasks every time, and everybody else's numbers too."""

    def generator(self, i):
        return torch.manual_seed(i)


class PutsBackWhatItDrew(Lines):
    def sample(self, tasks, start=0):
        with torch.random.fork_rng(devices=[]):
            seed = int(torch.randint(1000, ()))
        self.generator = lambda i: torch.Generator().manual_seed(seed + i)
        return super().sample(tasks, start)


class Counts(Lines):
    asked = 0

    def generator(self, i):
        self.asked += 1
        return torch.Generator().manual_seed(self.asked)


class IgnoresTheStart(Lines):
    def sample(self, tasks, start=0):
        return super().sample(tasks, 0)


class OneStreamABatch(Lines):
    """Seeded with the start of the batch."""

    def sample(self, tasks, start=0):
        stream = torch.Generator().manual_seed(start)
        self.generator = lambda i: stream
        return super().sample(tasks, start)


class KnowsTheSizeOfTheBatch(Lines):
    def sample(self, tasks, start=0):
        e = super().sample(tasks, start)
        return mb.Episode(
            e.support_x, e.support_y * tasks, e.query_x, e.query_y
        )


class OneTask(Lines):
    def generator(self, i):
        return super().generator(0)


class ForeignLabels(Classes):
    def sample(self, tasks, start=0):
        e = super().sample(tasks, start)
        return mb.Episode(e.support_x, e.support_y, e.query_x, e.query_y + 5)


class OverlappingSlices(Lines):
    def sample(self, tasks, start=0):
        e = super().sample(tasks, start)
        x, y = torch.cat([e.support_x[:, -1:], e.query_x], 1), e.query_y
        y = torch.cat([e.support_y[:, -1:], y], 1)
        return mb.Episode(e.support_x, e.support_y, x, y)


class DrawnTwice(mb.FewShotTasks):
    """Queries drawn independently of the support set: of twenty examples of a
    class, some are in both.
    """

    def __init__(self, images):
        super().__init__(images, way=5, shot=2, query=3)
        self.others = mb.FewShotTasks(images, way=5, shot=2, query=3, seed=9)

    def indices(self, tasks, start=0):
        rows = super().indices(tasks, start)
        of_class = rows[:, :, :1] // 20 * 20
        rows[:, :, 2:] = (
            of_class + self.others.indices(tasks, start)[:, :, 2:] % 20
        )
        return rows


BROKEN = {
    AlwaysEight: r"returns 8 tasks from sample\(16, 0\): the first argument of",
    OneTooFew: r"returns 15 tasks from sample\(16, 0\)",
    GlobalTorch: "draws from global random numbers, or sets them: a task must",
    GlobalNumpy: "draws from global random numbers",
    GlobalPython: "draws from global random numbers",
    SetsTheGlobalSeed: "draws from global random numbers, or sets them",
    PutsBackWhatItDrew: "draws from global random numbers",
    Counts: "returns other tasks when it is asked again: look for what one",
    IgnoresTheStart: (
        r"returns another task 5 from sample\(1, 5\) than from sample\(16, 0\):"
        " .* look for an argument start that is not used"
    ),
    OneStreamABatch: r"returns another task 5 from sample\(1, 5\) than",
    KnowsTheSizeOfTheBatch: r"returns another task 0 from sample\(1, 0\) than",
    OneTask: "returns the same task for each of 16 numbers",
    ForeignLabels: (
        r"asks in task 0 about label 12, which its support set \[4, 7, 9\] la"
    ),
    OverlappingSlices: "has support examples among its queries, 16 in 16 tasks",
    DrawnTwice: "has support examples among its queries, .* without replace",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda c: c.__name__)
def test_broken_tasks_are_caught_and_told_where_to_look(broken, images):
    tasks = broken(images) if broken is DrawnTwice else broken()
    with pytest.raises(
        AssertionError, match=f"^{broken.__name__} {BROKEN[broken]}"
    ):
        check_tasks(tasks)


def test_a_data_set_that_holds_an_example_twice_is_no_broken_sampler(images):
    """The pair is in one class, and seldom on both sides of one task."""
    pixels = images.images.clone()
    pixels[7] = pixels[3]
    labels = np.repeat(np.arange(40), 20)
    twins = mb.LabelledImages(pixels, labels)
    check_tasks(mb.FewShotTasks(twins, way=5, shot=2, query=3, seed=1))


def test_where_examples_repeat_within_a_set_overlap_cannot_be_told():
    class Coins(Classes):
        """Of two features that are 0 or 1 there are four examples."""

        def task(self, i):
            x, y = super().task(i)
            return (x > 0).float(), y

    check_tasks(Coins())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int64, torch.bool])
def test_examples_may_be_of_any_type(dtype):
    class Typed(Classes):
        def task(self, i):
            x, y = super().task(i)
            return (100 * x.clamp(min=0)).to(dtype), y

    check_tasks(Typed())


def test_what_is_no_episode_is_named():
    class Pairs:
        def sample(self, tasks, start=0):
            return [(torch.zeros(2), torch.zeros(2))] * tasks

    with pytest.raises(ValueError, match="a list with a tuple; it must hold"):
        check_tasks(Pairs())
