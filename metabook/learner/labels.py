# SPDX-License-Identifier: MIT
"""Labels of any integers as columns of the scores, and what a batch of tasks
must look like.

Taught in section 2.1 of the book.
"""

import torch
from torch import Tensor, nn

from metabook.learner.precision import forget_casts, is_cast

__all__ = [
    "check_batch",
    "check_dtype",
    "check_queries",
    "chosen_columns",
    "columns_of",
    "has_classes",
    "label_columns",
    "query_targets",
]


def label_columns(support_y: Tensor) -> tuple[Tensor, Tensor]:
    """Number the labels of each task from 0, smallest first.

    Parameters
    ----------
    support_y : Tensor of integers, (T, S)

    Returns
    -------
    classes : Tensor, (T, way)
        The labels of each task, ascending.
    columns : Tensor of int64, (T, S)
        Position of each label among them.

    Raises
    ------
    ValueError
        If the labels are not integers of shape (T, S), or tasks have different
        numbers of classes.

    Examples
    --------
    >>> label_columns(torch.tensor([[7, 3, 9, 3]]))
    (tensor([[3, 7, 9]]), tensor([[1, 0, 2, 0]]))
    """
    if not isinstance(support_y, Tensor):
        raise ValueError(
            f"support_y is a {type(support_y).__name__}; learners take tensors:"
            " torch.as_tensor(support_y)"
        )
    if (
        support_y.dim() != 2
        or 0 in support_y.shape
        or support_y.is_floating_point()
        or support_y.dtype == torch.bool
    ):
        raise ValueError(
            f"support_y is {support_y.dtype} of shape {tuple(support_y.shape)};"
            " class labels are integers of shape (tasks, examples)"
        )
    values, inverse = torch.unique(support_y, return_inverse=True)
    present = torch.zeros(
        len(support_y), len(values), dtype=torch.bool, device=support_y.device
    )
    present.scatter_(1, inverse, True)
    ways = present.sum(dim=1)
    if not bool((ways == ways[0]).all()):
        raise ValueError(
            f"the tasks have {sorted(set(ways.tolist()))} classes; one batch"
            " holds tasks of one way: pass tasks of other ways as episodes of"
            " their own"
        )
    classes = values.expand(len(support_y), -1)[present]
    classes = classes.view(len(support_y), -1)
    return classes, columns_of(support_y, classes)


def columns_of(labels: Tensor, classes: Tensor) -> Tensor:
    """The column of each label (T, Q) among the ascending classes (T, way) of
    its task; a foreign label raises.
    """
    labels, classes = labels.contiguous(), classes.contiguous()
    columns = torch.searchsorted(classes, labels)
    columns.clamp_(max=classes.shape[1] - 1)
    foreign = classes.gather(1, columns) != labels
    if bool(foreign.any()):
        t, q = foreign.nonzero()[0].tolist()
        raise ValueError(
            f"query {q} of task {t} has label {labels[t, q].item()}, which is"
            f" not in its support set {classes[t].tolist()}: no learner can"
            " predict a class that it was not shown"
        )
    return columns


def has_classes(support_y: Tensor) -> bool:
    """Whether the targets are one class label an example, (T, S): not floating
    ones, and not a label for each pixel.
    """
    return not support_y.is_floating_point() and support_y.dim() == 2


def chosen_columns(scores: Tensor, way: int) -> Tensor:
    """The column of the best score, from (T, Q, way) to (T, Q).

    A single score for two classes says by its sign which: column 1 if it is
    positive.
    """
    if way == 2 and scores.shape[-1] == 1:
        return (scores[..., 0] > 0).long()
    return scores.argmax(dim=-1)


def query_targets(support_y: Tensor, query_y: Tensor) -> Tensor:
    """What the predictions for the queries are compared with: columns for
    labels, floating targets as they are.
    """
    if not has_classes(support_y):
        return query_y
    return columns_of(query_y, label_columns(support_y)[0])


def check_batch(
    learner: nn.Module, support_x: Tensor, support_y: Tensor, query_x: Tensor
) -> None:
    """Refuse tensors that are not one batch of tasks, and say which."""
    forget_casts()
    for name, value in (
        ("support_x", support_x),
        ("support_y", support_y),
        ("query_x", query_x),
    ):
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{name} is a {type(value).__name__}; learners take tensors:"
                f" torch.as_tensor({name})"
            )
    if support_y.dim() < 2 or support_x.shape[:2] != support_y.shape[:2]:
        raise ValueError(
            f"support_x is {tuple(support_x.shape)} and support_y is"
            f" {tuple(support_y.shape)}; they must begin with the same (tasks,"
            " examples). For a single task add the first one: support_x[None],"
            " support_y[None]"
        )
    if (
        len(query_x) != len(support_x)
        or query_x.shape[2:] != support_x.shape[2:]
    ):
        raise ValueError(
            f"support_x is {tuple(support_x.shape)} but query_x is"
            f" {tuple(query_x.shape)}; only the second size, the number of"
            " examples, may differ"
        )
    for name, x in (("support_x", support_x), ("query_x", query_x)):
        check_dtype(name, x, next(learner.parameters(), support_x))


def check_queries(
    learner: nn.Module, query_x: Tensor, tasks: int, example: torch.Size
) -> None:
    """Refuse queries that are not of so many tasks, or whose examples have
    another shape than those of the support sets.
    """
    forget_casts()
    if not isinstance(query_x, Tensor):
        raise ValueError(
            f"query_x is a {type(query_x).__name__}; predictors take tensors:"
            " torch.as_tensor(query_x)"
        )
    shape = query_x.shape
    if shape[:1] != (tasks,) or len(shape) < 2 or shape[2:] != example:
        expected = ", ".join(map(str, (tasks, "queries", *example)))
        raise ValueError(
            f"query_x is {tuple(shape)}; it must be ({expected}), as the"
            " support sets were. For one example of a single task add the"
            " first two: query_x[None, None]"
        )
    check_dtype("query_x", query_x, next(learner.parameters(), query_x))


def check_dtype(name: str, x: Tensor, weight: Tensor) -> None:
    """Refuse inputs of another precision than the learner's weights."""
    if (
        x.is_floating_point()
        and x.dtype != weight.dtype
        and not (is_cast(x) and is_cast(weight))
    ):
        raise ValueError(
            f"{name} is {x.dtype} but the weights are {weight.dtype}: use"
            f" {name}.to({weight.dtype}), or data of that type from the start"
        )
    if x.dtype == torch.uint8:  # other integers are the model's, as tokens
        raise ValueError(
            f"{name} is {x.dtype}; images are floats in [0, 1]:"
            f" {name}.float() / 255"
        )
