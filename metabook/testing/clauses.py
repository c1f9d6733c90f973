# SPDX-License-Identifier: MIT
"""The clauses of the contract of learners, one function each: it returns, or
fails with what was violated and where to look.
"""

import copy
from dataclasses import replace

import torch
from torch import nn

from metabook.data.global_random import watched_random_numbers
from metabook.learner.labels import label_columns
from metabook.learner.protocol import Learner
from metabook.tasks.episode import Episode
from metabook.testing.asking import (
    answer,
    close,
    equal,
    fail,
    parts,
    shuffled,
)

__all__ = [
    "check_that_a_foreign_label_raises",
    "check_that_adapting_answers_alike",
    "check_that_it_repeats_itself",
    "check_that_its_loss_has_a_gradient",
    "check_that_labels_are_names",
    "check_that_labels_matter",
    "check_that_tasks_do_not_see_each_other",
    "check_the_order_of_the_queries",
    "check_the_order_of_the_support_set",
    "check_the_shape",
    "check_what_a_call_leaves_behind",
    "check_what_it_says_of_the_other_queries",
]


def check_what_a_call_leaves_behind(learner: Learner, episode: Episode) -> None:
    """A call changes neither inputs, nor learner, nor random state."""
    given = {name: t.clone() for name, t in parts(episode).items()}
    state = copy.deepcopy(learner.state_dict())
    modes = [m.training for m in learner.modules()]
    grads = [
        None if p.grad is None else p.grad.clone() for p in learner.parameters()
    ]
    with watched_random_numbers() as moved:
        learner(**given)
        drawn = moved()
    for name, tensor in parts(episode).items():
        if not torch.equal(given[name], tensor):
            fail(
                learner,
                f"writes into {name}",
                "look for operations in place, such as x -= ... or x[...]"
                " = ...",
            )
    for name, tensor in learner.state_dict().items():
        if name not in state or not equal(state[name], tensor):
            fail(
                learner,
                f"changes its own {name} when it is called",
                "what is learned from a support set belongs to the call, in"
                " local variables; look also at running statistics",
            )
    if [m.training for m in learner.modules()] != modes:
        fail(
            learner,
            "changes the mode of its modules",
            "look for .train() or .eval() in forward",
        )
    if not all(
        (p.grad is None) if g is None else equal(g, p.grad)
        for g, p in zip(grads, learner.parameters(), strict=True)
    ):
        fail(
            learner,
            "leaves a gradient in its parameters' .grad",
            "use torch.autograd.grad inside of forward, not backward()",
        )
    if drawn:
        fail(
            learner,
            "draws from global random numbers",
            "use a torch.Generator with a seed of its own, or save and restore"
            " the random state",
        )


def check_that_it_repeats_itself(learner: Learner, episode: Episode) -> None:
    """The same question has the same answer, whatever was asked between."""
    first = answer(learner, episode)
    # another question, which must leave nothing
    answer(learner, episode, support_x=episode.support_x.flip(1) / 2)
    if not close(first, answer(learner, episode)):
        fail(
            learner,
            "answers the same question differently the second time",
            "look for what one call leaves for the next, or for random numbers",
        )


def check_the_shape(learner: Learner, episode: Episode) -> None:
    """Scores are (tasks, queries, classes)."""
    scores = answer(learner, episode)
    way = label_columns(episode.support_y)[0].shape[1]
    expected = (*episode.query_y.shape, way)
    of_two = (*episode.query_y.shape, 1)  # one score says which of the two
    if tuple(scores.shape) not in (expected, of_two if way == 2 else expected):
        fail(
            learner,
            f"returns scores of shape {tuple(scores.shape)} in place of (tasks,"
            f" queries, classes) = {expected}",
            "look at the last lines of forward",
        )


def check_that_labels_matter(learner: Learner, episode: Episode) -> None:
    """Other labels on the same examples make other scores."""
    # the same labels, on other examples
    other = episode.support_y.roll(1, dims=1)
    if close(
        answer(learner, episode), answer(learner, episode, support_y=other)
    ):
        fail(
            learner,
            "gives the same scores whatever the labels of the support set",
            "look for classes told by position, as x.view(way, shot, ...), or"
            " numbered in order of appearance",
        )


def check_that_labels_are_names(learner: Learner, episode: Episode) -> None:
    """Labels are any integers, and `predict` returns them."""
    names = torch.unique(episode.support_y)
    # ascending, so that the columns stay
    others = 3 * torch.arange(len(names), device=names.device) ** 2 - 7
    renamed = others[torch.searchsorted(names, episode.support_y.contiguous())]
    look = (
        "labels are any integers, and column j belongs to the j-th smallest:"
        " use metabook.learner.label_columns"
    )
    try:
        same = close(
            answer(learner, episode),
            answer(learner, episode, support_y=renamed),
        )
    except Exception as error:
        fail(
            learner,
            "fails when classes are called -7, -4, 5, ... in place of 0, 1, 2,"
            f" ... ({error!r})",
            look,
        )
    if not same:
        fail(
            learner,
            "scores differently when classes are called -7, -4, 5, ... in place"
            " of 0, 1, 2, ...",
            look,
        )
    labels = learner.predict(**parts(replace(episode, support_y=renamed)))
    columns = learner.predict(**parts(episode))
    if not torch.equal(
        labels, others[torch.searchsorted(names, columns.contiguous())]
    ):
        fail(
            learner,
            "does not return the labels of the support set from predict",
            "look at its method predict",
        )


def check_that_adapting_answers_alike(
    learner: Learner, episode: Episode
) -> None:
    """A predictor gives what calling gives, however often it is asked."""
    predictor = learner.adapt(episode.support_x, episode.support_y)
    for _ in range(2):
        if not close(predictor(episode.query_x), answer(learner, episode)):
            fail(
                learner,
                "answers differently when it adapts first and is asked then",
                "look at its methods remember and answer, which together must"
                " do what forward does",
            )


def check_the_order_of_the_support_set(
    learner: Learner, episode: Episode
) -> None:
    """A support set is a set."""
    order = shuffled(episode.support_x.shape[1])
    changed = answer(
        learner,
        episode,
        support_x=episode.support_x[:, order],
        support_y=episode.support_y[:, order],
    )
    if not close(answer(learner, episode), changed):
        fail(
            learner,
            "depends on the order of the support set",
            "look for classes numbered in order of appearance, for examples"
            " taken by position, and for an inner loop in batches",
        )


def check_the_order_of_the_queries(learner: Learner, episode: Episode) -> None:
    """Queries in another order have their scores in that order."""
    order = shuffled(episode.query_x.shape[1])
    changed = answer(learner, episode, query_x=episode.query_x[:, order])
    if not close(answer(learner, episode)[:, order], changed):
        fail(
            learner,
            "does not permute its predictions when the queries are permuted",
            "look for a reshape that mixes dimensions, and for anything that"
            " takes queries by position",
        )


def check_that_tasks_do_not_see_each_other(
    learner: Learner, episode: Episode
) -> None:
    """A task alone is answered as in company."""
    alone = torch.cat([answer(learner, task) for task in episode.tasks()])
    if not close(alone, answer(learner, episode)):
        fail(
            learner,
            "answers a task differently when other tasks are in the batch",
            "look for means or normalisation over the first dimension, and for"
            " batch norm over several tasks at once",
        )


def check_what_it_says_of_the_other_queries(
    learner: Learner, episode: Episode
) -> None:
    """A query depends on the others if and only if the learner says so."""
    together = answer(learner, episode)
    alone = [
        answer(learner, episode, query_x=q)
        for q in (episode.query_x[:, :1], episode.query_x[:, -1:])
    ]
    independent = close(together[:, [0, -1]], torch.cat(alone, dim=1))
    if not independent and not learner.transductive:
        fail(
            learner,
            "is declared inductive, but a query alone is answered differently"
            " than in company",
            "look for statistics over the queries, such as batch norm without"
            " running statistics; or declare it, by a property transductive"
            " that returns True",
        )
    if independent and learner.transductive:
        fail(
            learner,
            "is declared transductive, but a query alone is answered as in"
            " company",
            "return False from its property transductive, so that the word"
            " means something",
        )


def check_that_a_foreign_label_raises(
    learner: Learner, episode: Episode
) -> None:
    """Nobody can be judged on a class that was not shown."""
    wrong = episode.query_y.clone()
    wrong[-1, -1] = episode.support_y.max() + 1
    foreign = replace(episode, query_y=wrong)
    try:
        learner.loss(foreign)
    except ValueError:
        return
    except NotImplementedError:  # no gradient of a loss: Reptile
        try:
            learner.backward(foreign)
        except ValueError:
            return
    fail(
        learner,
        "accepts a query whose label is not in its support set",
        "let loss compare with metabook.learner.labels.query_targets(support_y,"
        " query_y), which raises ValueError",
    )


def check_that_its_loss_has_a_gradient(
    learner: Learner, episode: Episode
) -> None:
    """Training moves something: asked as `metabook.train` asks, by `backward`
    in training mode.

    Nothing to learn across tasks has a learner without a parameter that
    requires a gradient, and one whose `backward` says so by a
    NotImplementedError.
    """
    learnable = [p for p in learner.parameters() if p.requires_grad]
    if not learnable:
        return
    grads = [p.grad for p in learnable]
    buffers = [(b, b.clone()) for b in learner.buffers()]
    try:
        for p in learnable:
            p.grad = None
        with watched_random_numbers(), torch.enable_grad():
            reached = _reaches(learner.train(), episode, learnable)
    finally:
        for p, grad in zip(learnable, grads, strict=True):
            p.grad = grad
        for buffer, value in buffers:
            buffer.copy_(value)
        learner.eval()
    if not reached:
        fail(
            learner,
            "has scores without a gradient: its loss depends on none of its"
            " parameters",
            "look for torch.no_grad, .detach(), .item(), argmax and NumPy in"
            " forward. If it has nothing to learn across tasks, freeze its"
            " parameters, or let backward raise NotImplementedError",
        )


def _reaches(
    learner: Learner, episode: Episode, learnable: list[nn.Parameter]
) -> bool:
    try:
        learner.backward(episode)
    except NotImplementedError:
        return True
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        return False
    return any(p.grad is not None for p in learnable)
