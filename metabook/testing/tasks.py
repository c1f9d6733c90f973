# SPDX-License-Identifier: MIT
"""The contract of every family of tasks as a test that a course can run on its
own: `check_tasks`.
"""

import math
from collections import Counter

import torch
from torch import Tensor

from metabook.data.global_random import (
    random_numbers_of,
    watched_random_numbers,
)
from metabook.learner.labels import has_classes
from metabook.tasks.episode import Episode, as_episodes
from metabook.tasks.protocol import Tasks
from metabook.testing.asking import close, fail

__all__ = ["check_tasks"]

LOOK = 16  # tasks


def check_tasks(tasks: Tasks) -> None:
    """Check that tasks are what training and evaluation rely on: task i is
    always the same, whoever asks and however many at once, and a fair question.

    Parameters
    ----------
    tasks : FewShotTasks, Sinusoids, VariedTasks, or another
        Anything with ``sample(tasks, start)``. The first sixteen are looked at.

    Raises
    ------
    AssertionError
        If ``sample`` returns more or fewer tasks than it is asked for, draws
        from global random numbers, lets a task depend on the batch that it
        comes in, or gives the same one for every number; if a task asks about a
        class that its support set lacks, or about a support example.
    ValueError
        If ``sample`` returns no episodes.

    Examples
    --------
    >>> import metabook as mb
    >>> check_tasks(mb.Sinusoids())
    """
    with watched_random_numbers() as moved:
        whole = _sample(tasks, LOOK, 0)
        if moved():
            _fail_of_random_numbers(tasks)
    _check_global_random_numbers(tasks, whole)
    _check_batches(tasks, whole)
    for i, task in enumerate(whole):
        _check_labels(tasks, i, task)
    _check_overlap(tasks, whole)


def _sample(tasks: Tasks, number: int, start: int) -> list[Episode]:
    """Tasks one by one, as many as asked for."""
    drawn = as_episodes(tasks.sample(number, start))
    found = sum(map(len, drawn))
    if found != number:
        fail(
            tasks,
            f"returns {found} tasks from sample({number}, {start})",
            "the first argument of sample says how many",
        )
    return [task for episode in drawn for task in episode.tasks()]


def _check_global_random_numbers(tasks: Tasks, whole: list[Episode]) -> None:
    """What is put back was drawn from all the same."""
    with random_numbers_of(1, torch.device("cpu")):
        again = _sample(tasks, LOOK, 0)
    if not all(map(_same, whole, again)):
        with random_numbers_of(1, torch.device("cpu")):
            third = _sample(tasks, LOOK, 0)
        if all(map(_same, again, third)):
            _fail_of_random_numbers(tasks)
        fail(
            tasks,
            "returns other tasks when it is asked again",
            "look for what one call leaves for the next, and for random"
            " numbers without a seed",
        )


def _fail_of_random_numbers(tasks: Tasks) -> None:
    fail(
        tasks,
        "draws from global random numbers, or sets them",
        "a task must depend on a seed and on its number alone: let each have a"
        " torch.Generator of its own, seeded with both",
    )


def _check_batches(tasks: Tasks, whole: list[Episode]) -> None:
    """Alone, in another batch, and in the middle: the same tasks."""
    for start, number in ((0, 1), (5, 1), (3, 7), (LOOK - 4, 4)):
        drawn = _sample(tasks, number, start)
        for i, task in enumerate(drawn, start):
            if not _same(task, whole[i]):
                fail(
                    tasks,
                    f"returns another task {i} from sample({number}, {start})"
                    f" than from sample({LOOK}, 0)",
                    "task start + t is the t-th of a batch: look for an"
                    " argument start that is not used, and for random numbers"
                    " drawn for the whole batch at once",
                )
    if all(_same(task, whole[0]) for task in whole):
        fail(
            tasks,
            f"returns the same task for each of {LOOK} numbers",
            "a task depends on its number, start + t; an average over one task"
            " says nothing about others",
        )


def _check_labels(tasks: Tasks, i: int, task: Episode) -> None:
    if not has_classes(task.support_y):
        return
    shown = set(task.support_y.flatten().tolist())
    foreign = set(task.query_y.flatten().tolist()) - shown
    if foreign:
        fail(
            tasks,
            f"asks in task {i} about label {min(foreign)}, which its support"
            f" set {sorted(shown)} lacks",
            "every class of the queries needs a support example, with labels"
            " numbered for both together",
        )


def _check_overlap(tasks: Tasks, whole: list[Episode]) -> None:
    """No query is a support example.

    Examples may be alike by nature, as short strings of tokens are: then they
    are so within the two sets as well. A data set that holds an example twice
    seldom has one of them on each side.
    """
    between = within = pairs_between = pairs_within = 0
    for task in whole:
        sets = [Counter(_rows(x[0])) for x in (task.support_x, task.query_x)]
        support, query = sets
        between += sum(n * query[row] for row, n in support.items())
        within += sum(math.comb(n, 2) for c in sets for n in c.values())
        sizes = [sum(c.values()) for c in sets]
        pairs_between += math.prod(sizes)
        pairs_within += sum(math.comb(n, 2) for n in sizes)
    by_nature = pairs_between * within / max(pairs_within, 1)
    if between > 4 + 4 * by_nature:
        fail(
            tasks,
            f"has support examples among its queries, {between} in"
            f" {len(whole)} tasks",
            "draw the examples of a class once, without replacement, and then"
            " part them. If the data hold many examples twice, drop the second"
            " ones",
        )


def _rows(x: Tensor) -> list[bytes]:
    """Every example as its bytes."""
    flat = x.detach().cpu().reshape(len(x), -1).contiguous()
    return [row.numpy().tobytes() for row in flat.view(torch.uint8)]


def _same(a: Episode, b: Episode) -> bool:
    pairs = (
        (a.support_x, b.support_x),
        (a.support_y, b.support_y),
        (a.query_x, b.query_x),
        (a.query_y, b.query_y),
    )
    return all(
        close(x, y) if x.is_floating_point() else torch.equal(x, y)
        for x, y in pairs
    )
