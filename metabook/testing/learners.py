# SPDX-License-Identifier: MIT
"""The contract of every learner as a test that a course can run on its own:
`check_learner`.
"""

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from metabook.data.glyphs import glyphs
from metabook.learner.labels import label_columns
from metabook.learner.protocol import Learner
from metabook.tasks.episode import Episode
from metabook.tasks.few_shot import FewShotTasks
from metabook.training.evaluate import as_found

__all__ = ["check_learner"]


def check_learner(learner: Learner, episode: Episode | None = None) -> None:
    """Check that a learner is what it says: a function from a support set to a
    predictor, task by task.

    It is asked in evaluation mode and without gradients, as `metabook.evaluate`
    asks it, and left as it was found.

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
        weight = next(learner.parameters(), torch.zeros(()))
        tasks = FewShotTasks(
            glyphs(classes=20, examples=5, seed=0),
            way=5,
            shot=2,
            query=3,
            seed=0,
        )
        episode = tasks.sample(3).to(weight.device, weight.dtype)
    if len(episode) < 2 or episode.query_x.shape[1] < 2:
        raise ValueError(
            f"{episode} has too little to ask: two tasks of two queries are the"
            " least"
        )
    with as_found(learner), torch.no_grad():
        _check_what_a_call_leaves_behind(learner, episode)
        for check in (
            _CHECKS
            if not episode.support_y.is_floating_point()
            else _CHECKS_OF_ANY
        ):
            check(learner, episode)


def _check_what_a_call_leaves_behind(
    learner: Learner, episode: Episode
) -> None:
    """A call changes neither inputs, nor learner, nor random state."""
    given = {name: t.clone() for name, t in _parts(episode).items()}
    state = copy.deepcopy(learner.state_dict())
    modes = [m.training for m in learner.modules()]
    grads = [
        None if p.grad is None else p.grad.clone() for p in learner.parameters()
    ]
    random_state = torch.get_rng_state()
    learner(**given)
    for name, tensor in _parts(episode).items():
        if not torch.equal(given[name], tensor):
            _fail(
                learner,
                f"writes into {name}",
                "look for operations in place, such as x -= ... or x[...]"
                " = ...",
            )
    for name, tensor in learner.state_dict().items():
        if name not in state or not _equal(state[name], tensor):
            _fail(
                learner,
                f"changes its own {name} when it is called",
                "what is learned from a support set belongs to the call, in"
                " local variables; look also at running statistics",
            )
    if [m.training for m in learner.modules()] != modes:
        _fail(
            learner,
            "changes the mode of its modules",
            "look for .train() or .eval() in forward",
        )
    if not all(
        (p.grad is None) if g is None else _equal(g, p.grad)
        for g, p in zip(grads, learner.parameters(), strict=True)
    ):
        _fail(
            learner,
            "leaves a gradient in its parameters' .grad",
            "use torch.autograd.grad inside of forward, not backward()",
        )
    if not torch.equal(torch.get_rng_state(), random_state):
        _fail(
            learner,
            "draws from torch's global random numbers",
            "use a torch.Generator with a seed of its own, or save and restore"
            " the random state",
        )


def _check_that_it_repeats_itself(learner: Learner, episode: Episode) -> None:
    first = _answer(learner, episode)
    # another question, which must leave nothing
    _answer(learner, episode, support_x=episode.support_x.flip(1) / 2)
    if not _close(first, _answer(learner, episode)):
        _fail(
            learner,
            "answers the same question differently the second time",
            "look for what one call leaves for the next, or for random numbers",
        )


def _check_the_shape(learner: Learner, episode: Episode) -> None:
    scores = _answer(learner, episode)
    way = label_columns(episode.support_y)[0].shape[1]
    expected = (*episode.query_y.shape, way)
    if tuple(scores.shape) != expected:
        _fail(
            learner,
            f"returns scores of shape {tuple(scores.shape)} in place of (tasks,"
            f" queries, classes) = {expected}",
            "look at the last lines of forward",
        )


def _check_that_labels_matter(learner: Learner, episode: Episode) -> None:
    # the same labels, on other examples
    other = episode.support_y.roll(1, dims=1)
    if _close(
        _answer(learner, episode), _answer(learner, episode, support_y=other)
    ):
        _fail(
            learner,
            "gives the same scores whatever the labels of the support set",
            "look for classes told by position, as x.view(way, shot, ...), or"
            " numbered in order of appearance",
        )


def _check_that_labels_are_names(learner: Learner, episode: Episode) -> None:
    names = torch.unique(episode.support_y)
    # ascending, so that the columns stay
    others = 3 * torch.arange(len(names), device=names.device) ** 2 - 7
    renamed = others[torch.searchsorted(names, episode.support_y.contiguous())]
    look = (
        "labels are any integers, and column j belongs to the j-th smallest:"
        " use metabook.learner.label_columns"
    )
    try:
        same = _close(
            _answer(learner, episode),
            _answer(learner, episode, support_y=renamed),
        )
    except Exception as error:
        _fail(
            learner,
            "fails when classes are called -7, -4, 5, ... in place of 0, 1, 2,"
            f" ... ({error!r})",
            look,
        )
    if not same:
        _fail(
            learner,
            "scores differently when classes are called -7, -4, 5, ... in place"
            " of 0, 1, 2, ...",
            look,
        )
    labels = learner.predict(**_parts(replace(episode, support_y=renamed)))
    columns = learner.predict(**_parts(episode))
    if not torch.equal(
        labels, others[torch.searchsorted(names, columns.contiguous())]
    ):
        _fail(
            learner,
            "does not return the labels of the support set from predict",
            "look at its method predict",
        )


def _check_the_order_of_the_support_set(
    learner: Learner, episode: Episode
) -> None:
    order = _shuffled(episode.support_x.shape[1])
    changed = _answer(
        learner,
        episode,
        support_x=episode.support_x[:, order],
        support_y=episode.support_y[:, order],
    )
    if not _close(_answer(learner, episode), changed):
        _fail(
            learner,
            "depends on the order of the support set",
            "look for classes numbered in order of appearance, for examples"
            " taken by position, and for an inner loop in batches",
        )


def _check_the_order_of_the_queries(learner: Learner, episode: Episode) -> None:
    order = _shuffled(episode.query_x.shape[1])
    changed = _answer(learner, episode, query_x=episode.query_x[:, order])
    if not _close(_answer(learner, episode)[:, order], changed):
        _fail(
            learner,
            "does not permute its predictions when the queries are permuted",
            "look for a reshape that mixes dimensions, and for anything that"
            " takes queries by position",
        )


def _check_that_tasks_do_not_see_each_other(
    learner: Learner, episode: Episode
) -> None:
    alone = torch.cat([_answer(learner, task) for task in episode.tasks()])
    if not _close(alone, _answer(learner, episode)):
        _fail(
            learner,
            "answers a task differently when other tasks are in the batch",
            "look for means or normalisation over the first dimension, and for"
            " batch norm over several tasks at once",
        )


def _check_what_it_says_of_the_other_queries(
    learner: Learner, episode: Episode
) -> None:
    together = _answer(learner, episode)
    alone = [
        _answer(learner, episode, query_x=q)
        for q in (episode.query_x[:, :1], episode.query_x[:, -1:])
    ]
    independent = _close(together[:, [0, -1]], torch.cat(alone, dim=1))
    if not independent and not learner.transductive:
        _fail(
            learner,
            "is declared inductive, but a query alone is answered differently"
            " than in company",
            "look for statistics over the queries, such as batch norm without"
            " running statistics; or declare it, by a property transductive"
            " that returns True",
        )
    if independent and learner.transductive:
        _fail(
            learner,
            "is declared transductive, but a query alone is answered as in"
            " company",
            "return False from its property transductive, so that the word"
            " means something",
        )


def _check_that_a_foreign_label_raises(
    learner: Learner, episode: Episode
) -> None:
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
    _fail(
        learner,
        "accepts a query whose label is not in its support set",
        "let loss compare with metabook.learner.labels.query_targets(support_y,"
        " query_y), which raises ValueError",
    )


_Check = Callable[[Learner, Episode], None]
_CHECKS_OF_ANY: list[_Check] = [
    _check_that_it_repeats_itself,
    _check_that_tasks_do_not_see_each_other,
    _check_the_order_of_the_support_set,
    _check_the_order_of_the_queries,
    _check_what_it_says_of_the_other_queries,
]
_CHECKS: list[_Check] = [
    _check_the_shape,
    _check_that_it_repeats_itself,
    _check_that_labels_matter,
    _check_that_labels_are_names,
    *_CHECKS_OF_ANY[1:],
    _check_that_a_foreign_label_raises,
]


def _fail(learner: Learner, what: str, look: str) -> None:
    raise AssertionError(f"{type(learner).__name__} {what}: {look}")


def _parts(episode: Episode) -> dict[str, Tensor]:
    return {
        "support_x": episode.support_x,
        "support_y": episode.support_y,
        "query_x": episode.query_x,
    }


def _answer(learner: Learner, episode: Episode, **changes: Tensor) -> Tensor:
    scores: Tensor = learner(
        **{name: t.clone() for name, t in (_parts(episode) | changes).items()}
    )
    return scores


def _shuffled(n: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(1))


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding: relative to the largest score, since differences of
    scores decide.
    """
    if a.shape != b.shape:
        return False
    scale = (
        float(b[b.isfinite()].abs().max()) if bool(b.isfinite().any()) else 1.0
    )
    rounding = 1e-8 if a.dtype == torch.float64 else 1e-4
    return torch.allclose(a, b, rtol=0, atol=rounding * scale, equal_nan=True)


def _equal(a: Tensor, b: Tensor | None) -> bool:
    return isinstance(b, Tensor) and bool(
        ((a == b) | ((a != a) & (b != b))).all()
    )
