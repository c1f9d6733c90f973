# SPDX-License-Identifier: MIT
"""The contract of every learner as a test that a course can run on its own:
`check_learner`.
"""

import copy
from collections.abc import Callable
from typing import TypeAlias

import torch

from metabook.data.glyphs import glyphs
from metabook.learner.labels import has_classes
from metabook.learner.protocol import Learner
from metabook.tasks.episode import Episode
from metabook.tasks.few_shot import FewShotTasks
from metabook.testing.asking import NotANumber
from metabook.testing.clauses import (
    check_that_a_foreign_label_raises,
    check_that_adapting_answers_alike,
    check_that_it_repeats_itself,
    check_that_its_loss_has_a_gradient,
    check_that_labels_are_names,
    check_that_labels_matter,
    check_that_tasks_do_not_see_each_other,
    check_the_order_of_the_queries,
    check_the_order_of_the_support_set,
    check_the_shape,
    check_what_a_call_leaves_behind,
    check_what_it_says_of_the_other_queries,
)
from metabook.training.evaluate import as_found, placed

__all__ = ["check_learner"]

Clause: TypeAlias = Callable[[Learner, Episode], None]
OF_REGRESSION: list[Clause] = [
    check_what_a_call_leaves_behind,
    check_that_it_repeats_itself,
    check_that_tasks_do_not_see_each_other,
    check_the_order_of_the_support_set,
    check_the_order_of_the_queries,
    check_what_it_says_of_the_other_queries,
    check_that_its_loss_has_a_gradient,
    check_that_adapting_answers_alike,
]
OF_CLASSIFICATION: list[Clause] = [
    check_what_a_call_leaves_behind,
    check_the_shape,
    check_that_it_repeats_itself,
    check_that_labels_matter,
    check_that_labels_are_names,
    *OF_REGRESSION[2:],
    check_that_a_foreign_label_raises,
]


def check_learner(learner: Learner, episode: Episode | None = None) -> None:
    """Check that a learner is what it says: a function from a support set to a
    predictor, task by task.

    It is asked in evaluation mode and without gradients, as `metabook.evaluate`
    asks it, and once as `metabook.train` does; it is left as it was found. What
    rounding alone violates is no violation.

    Parameters
    ----------
    learner : Learner
        Trained or not.
    episode : Episode, optional
        What to ask it; at least two tasks of two queries. Three 5-way 2-shot
        tasks of glyphs, 1 x 28 x 28, in the type and on the device of the
        learner's parameters, unless given.

    Raises
    ------
    AssertionError
        At the first clause that does not hold: which one, and where to look.
    TypeError, ValueError
        If this is no `Learner`, or the episode has too little to ask.

    References
    ----------
    The idea is that of scikit-learn's ``check_estimator``.

    Examples
    --------
    >>> import metabook as mb
    >>> check_learner(mb.NearestNeighbour())
    """
    if not isinstance(learner, Learner):
        raise TypeError(
            f"{type(learner).__name__} is no metabook.Learner: derive from it"
            " and write forward"
        )
    if episode is None:
        signs = glyphs(classes=20, examples=5, seed=0)
        tasks = FewShotTasks(signs, way=5, shot=2, query=3, seed=0)
        episode = placed(tasks.sample(3), learner)
    if len(episode) < 2 or episode.query_x.shape[1] < 2:
        raise ValueError(
            f"{episode} has too little to ask: two tasks of two queries are the"
            " least"
        )
    with as_found(learner), torch.no_grad():
        for clause in (
            OF_CLASSIFICATION
            if has_classes(episode.support_y)
            else OF_REGRESSION
        ):
            _hold(clause, learner, episode)


def _hold(clause: Clause, learner: Learner, episode: Episode) -> None:
    """Ask, and where the answer is no, ask a copy in double precision: what
    holds there was violated by rounding alone, as by that of an inner loop
    which Adam makes large.
    """
    try:
        clause(learner, episode)
    except NotANumber:
        raise
    except AssertionError as violation:
        try:
            exact = copy.deepcopy(learner).double().eval()
            clause(exact, episode.to(torch.float64))
        except Exception:
            raise violation from None
