# SPDX-License-Identifier: MIT
"""The protocol that every few-shot learner obeys: a function from a support set
to a predictor.

``learner(support_x, support_y, query_x)`` learns from the support set and
predicts the queries, for T tasks at once. What a method learns *across* tasks
are its parameters, and `Learner.backward` says how. Taught in section 2.1 of
the book.
"""

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, TypeVar
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metabook.data.settings import module_settings
from metabook.learner.labels import (
    check_batch,
    check_queries,
    chosen_columns,
    has_classes,
    label_columns,
    query_targets,
)
from metabook.learner.losses import LossFn, check_targets
from metabook.learner.probes import Trials
from metabook.models.norms import SupportNorm
from metabook.tasks.episode import Episode

__all__ = ["ClassNames", "Learner", "LossFn", "Predictor", "State"]

# attributes that say how something is computed, and not what
EXECUTION = frozenset({"compiled", "execution", "threads", "vectorized"})

State = dict[str, Tensor]
ClassNames = Sequence[str] | Sequence[Sequence[str]]
SomePredictor = TypeVar("SomePredictor", bound="Predictor")


class Learner(nn.Module, ABC):
    """Base of the few-shot learners.

    A subclass writes `forward`; `adapt`, `loss`, `backward` and `predict`
    follow from it. One that can keep less of a support set than all of it also
    writes `remember` and `answer`.

    Parameters
    ----------
    loss_fn : callable
        ``loss_fn(predictions, targets)`` with all examples along the first
        dimension. Integer labels arrive as columns of the predictions, 0 to
        ``way - 1``; floating targets arrive as they are.

    Attributes
    ----------
    transductive : bool
        Whether the prediction for a query may depend on the other queries: true
        of a network that normalises with the statistics of the batch. Found by
        trying, in evaluation mode, on the first task that the learner sees;
        before, and where that fails, judged by the layers of the network.
        Printed with every score.

    Examples
    --------
    >>> import torch
    >>> from metabook.learner.labels import label_columns
    >>> class SmallestLabel(Learner):  # the answer to every query
    ...     def forward(self, support_x, support_y, query_x):
    ...         way = label_columns(support_y)[0].shape[1]
    ...         first = torch.zeros(query_x.shape[:2], dtype=torch.long)
    ...         return F.one_hot(first, way).float()
    >>> support_x, support_y = torch.rand(1, 4, 3), torch.tensor([[8, 8, 5, 5]])
    >>> predictor = SmallestLabel().adapt(support_x, support_y)
    >>> predictor.predict(torch.rand(1, 2, 3))
    tensor([[5, 5]])
    """

    predictor_type: ClassVar["type[Predictor]"]

    def __init__(self, loss_fn: LossFn = F.cross_entropy) -> None:
        super().__init__()
        self.loss_fn, self._trials = loss_fn, Trials()

    def __call__(
        self,
        support_x: Tensor,
        support_y: Tensor,
        query_x: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """As of any module: `forward`, and hooks."""
        self.show(support_x, support_y, query_x)
        return super().__call__(support_x, support_y, query_x, *args, **kwargs)

    @property
    def transductive(self) -> bool:
        """Whether a query's prediction may depend on the other queries."""
        found = self._trials.transductive(self)
        return self.seems_transductive() if found is None else found

    def seems_transductive(self) -> bool:
        """What its layers say of it, as long as it was not tried."""
        uses_batch = [
            isinstance(m, _BatchNorm) and m.running_mean is None
            for m in self.modules()
        ]
        return any(uses_batch) or any(
            isinstance(m, SupportNorm) for m in self.modules()
        )

    def show(
        self, support_x: Tensor, support_y: Tensor, query_x: Tensor
    ) -> None:
        """Keep one of these tasks, to find out on it what the learner does."""
        self._trials.show(support_x, support_y, query_x)

    def adapt(
        self,
        support_x: Tensor,
        support_y: Tensor,
        *,
        class_names: ClassNames | None = None,
    ) -> "Predictor":
        """Learn each task from its support set.

        Parameters
        ----------
        support_x : Tensor, (T, S, ...)
        support_y : Tensor, (T, S)
            Any integers, or floating targets.
        class_names : sequence of str, or of T such sequences, optional
            Name j belongs to the j-th smallest label.

        Returns
        -------
        Predictor
            Called on queries (T, Q, ...) it gives what calling the learner
            gives.
        """
        check_batch(self, support_x, support_y, support_x)
        self.show(support_x, support_y, support_x)
        state = self.remember(support_x, support_y)
        return self.predictor(state, support_x, support_y, class_names)

    def predictor(
        self,
        state: State,
        support_x: Tensor,
        support_y: Tensor,
        class_names: ClassNames | None,
    ) -> "Predictor":
        """What `adapt` returns, from what `remember` kept."""
        classed = has_classes(support_y)
        classes = label_columns(support_y)[0] if classed else None
        example = support_x.shape[2:]
        return self.predictor_type(self, state, example, classes, class_names)

    def remember(self, support_x: Tensor, support_y: Tensor) -> State:
        """What is kept of the support sets: here, all of them.

        A learner that can keep less overrides this, and `answer` with it.
        """
        return {"support_x": support_x, "support_y": support_y}

    def answer(self, state: State, query_x: Tensor) -> Tensor:
        """The scores of queries, from what `remember` kept."""
        scores: Tensor = self(state["support_x"], state["support_y"], query_x)
        return scores

    @abstractmethod
    def forward(
        self, support_x: Tensor, support_y: Tensor, query_x: Tensor
    ) -> Tensor:
        """Learn each task from its support set and predict its queries.

        Parameters
        ----------
        support_x : Tensor, (T, S, ...)
        support_y : Tensor, (T, S)
            Any integers, or floating targets.
        query_x : Tensor, (T, Q, ...)

        Returns
        -------
        Tensor, (T, Q, way) or the shape of the targets
            For classes, column j scores the j-th smallest label of that task's
            support set.
        """

    def loss(self, episode: Episode) -> Tensor:
        """The loss on the query sets after learning from the support sets,
        averaged over the tasks; a scalar.

        Raises
        ------
        ValueError
            If a query has a label that its task's support set lacks.
        """
        targets = query_targets(episode.support_y, episode.query_y)
        predictions = self(
            episode.support_x, episode.support_y, episode.query_x
        )
        return self.compare(predictions.flatten(0, 1), targets.flatten(0, 1))

    def compare(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """``loss_fn`` of predictions and targets, after a look at both.

        They are (N, way) and (N,), or (N, ...) both.

        Raises
        ------
        ValueError
            If floating targets meet cross-entropy, the shapes would broadcast,
            or the loss is no scalar.
        """
        check_targets(self.loss_fn, predictions, targets)
        loss = self.loss_fn(predictions, targets)
        if loss.dim():
            raise ValueError(
                f"loss_fn returned shape {tuple(loss.shape)}; it must be a"
                " scalar: reduction='mean'"
            )
        return loss

    def settings(self) -> dict[str, Any]:
        """What tells this learner from another one, apart from its weights:
        loss, model, and all public attributes. A run in a folder is known by
        it.

        A subclass overrides it where an argument of its constructor is not kept
        as an attribute, or where an attribute does not change the result.

        Examples
        --------
        >>> import metabook as mb
        >>> settings = mb.FineTuning(nn.Flatten(), steps=20).settings()
        >>> settings["steps"], settings["loss_fn"]
        (20, 'torch.nn.functional.cross_entropy')
        """
        return module_settings(self, EXECUTION, name="the learner")

    def check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Warn of an optimiser that does not do what the method's authors mean.
        `metabook.train` calls this once; here, any will do.
        """
        return

    def backward(self, episode: Episode) -> float:
        """Add the outer gradient to the parameters' ``.grad`` and return the
        loss. `metabook.train` calls this.

        Raises
        ------
        RuntimeError
            If the loss does not depend on any parameter.
        """
        loss = self.loss(episode)
        if not loss.requires_grad:
            raise RuntimeError(
                f"the loss of {type(self).__name__} does not require grad: none"
                " of its parameters was used. Look for no_grad and detach in"
                " it; if it learns nothing across tasks, evaluate it as it is"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def backward_each(self, episodes: Iterable[Episode]) -> float:
        """Like `backward`, for tasks that fit into no common episode: each
        comes as its own, with T = 1.

        What is added to ``.grad`` is the gradient of the mean over the tasks,
        as if they had come together.
        """
        before = [p.grad for p in self.parameters()]
        for p in self.parameters():
            p.grad = None
        losses = [self.backward(episode) for episode in episodes]
        for p, grad in zip(self.parameters(), before, strict=True):
            if p.grad is None:
                p.grad = grad
            else:
                mean = p.grad / len(losses)
                p.grad = mean if grad is None else grad + mean
        return sum(losses) / len(losses)

    def predict(
        self, support_x: Tensor, support_y: Tensor, query_x: Tensor
    ) -> Tensor:
        """Like calling the learner, but returns labels, (T, Q), in place of
        scores; floating targets stay predictions.
        """
        return self.adapt(support_x, support_y).predict(query_x)


class Predictor:
    """The tensors that T support sets left, and the learner that uses them.

    `Learner.adapt` makes it. Training the learner afterwards changes the
    learner's own weights, and not what is kept here: adapt again.

    Parameters
    ----------
    learner : Learner
    state : dict of name to Tensor, (T, ...)
        What the learner keeps of the support sets: prototypes, fast weights,
        or the support sets themselves.
    example : torch.Size
        The shape of one example.
    classes : Tensor of integers, (T, way), optional
        The labels of each task, ascending; ``None`` for regression.
    class_names : sequence of str, or of T such sequences, optional
        Name j belongs to the j-th smallest label.

    Attributes
    ----------
    class_names : tuple of T tuples of str, optional

    Raises
    ------
    ValueError
        If there are not as many names as classes.

    Examples
    --------
    >>> import metabook as mb
    >>> signs = mb.glyphs(classes=5, examples=4, seed=0)
    >>> episode = mb.FewShotTasks(signs, way=5, shot=2, query=2).sample(1)
    >>> learner = mb.ProtoNet(mb.Conv4()).eval()
    >>> predictor = learner.adapt(
    ...     episode.support_x,
    ...     episode.support_y,
    ...     class_names=["a", "b", "c", "d", "e"],
    ... )
    >>> predictor(episode.query_x).shape
    torch.Size([1, 10, 5])
    >>> predictor.predict(episode.query_x[:, :1]).shape
    torch.Size([1, 1])
    >>> predictor
    Predictor(ProtoNet, 1 task, classes a, b, c, d, e)
    """

    def __init__(
        self,
        learner: "Learner",
        state: State,
        example: torch.Size,
        classes: Tensor | None,
        class_names: ClassNames | None = None,
    ) -> None:
        self.learner, self.state, self.example = learner, state, example
        self.classes = classes
        self.class_names = _names(class_names, classes)

    def __len__(self) -> int:
        return len(next(iter(self.state.values())))

    def __repr__(self) -> str:
        tasks = "1 task" if len(self) == 1 else f"{len(self)} tasks"
        kind = ""
        if self.class_names is not None and len(self) == 1:
            kind = f", classes {', '.join(self.class_names[0])}"
        elif self.classes is not None:
            kind = f", {self.classes.shape[1]} classes each"
        if self.learner.transductive:
            kind += ", transductive"
        return f"Predictor({type(self.learner).__name__}, {tasks}{kind})"

    def __call__(self, query_x: Tensor) -> Tensor:
        """Score queries.

        Parameters
        ----------
        query_x : Tensor, (T, Q, ...)

        Returns
        -------
        Tensor, (T, Q, way) or the shape of the targets
            Column j scores the j-th smallest label of that task's support set.

        Raises
        ------
        ValueError
            If the queries are not of as many tasks, or their examples have
            another shape than those of the support set.
        FloatingPointError
            If a score is not finite.

        Warns
        -----
        UserWarning
            Once, when a transductive learner is asked about a single query.
        """
        check_queries(self.learner, query_x, len(self), self.example)
        if query_x.shape[1] == 1 and self.learner.transductive:
            _warn_of_a_single_query(self.learner)
        scores = self.learner.answer(self.state, query_x)
        if not bool(torch.isfinite(scores).all()):
            raise FloatingPointError(
                f"a score of {type(self.learner).__name__} is not finite. Look"
                " for infinite or missing values in the support set and the"
                " queries; if there are none, the learner diverged: train it"
                " with a smaller step size"
            )
        return scores

    def predict(self, query_x: Tensor) -> Tensor:
        """The label of each query, (T, Q); for regression the predictions."""
        scores = self(query_x)
        if self.classes is None:
            return scores
        return self.classes.gather(
            1, chosen_columns(scores, self.classes.shape[1])
        )

    def predict_names(self, query_x: Tensor) -> list[list[str]]:
        """The name of each query's class, a list for each task.

        Raises
        ------
        ValueError
            If no names were given to ``adapt``.
        """
        if self.class_names is None:
            raise ValueError(
                "these classes have no names: give them, as"
                " learner.adapt(support_x, support_y, class_names=[...])"
            )
        way = len(self.class_names[0])
        columns = chosen_columns(self(query_x), way).tolist()
        pairs = zip(self.class_names, columns, strict=True)
        return [[names[j] for j in row] for names, row in pairs]

    def to(self: SomePredictor, device: torch.device | str) -> SomePredictor:
        """The same predictor on another device, with a learner of its own
        there; this one and its learner stay where they are.
        """
        moved = copy.copy(self)
        moved.learner = copy.deepcopy(self.learner).to(device)
        moved.state = {k: t.to(device) for k, t in self.state.items()}
        if self.classes is not None:
            moved.classes = self.classes.to(device)
        return moved


def _names(
    names: ClassNames | None, classes: Tensor | None
) -> tuple[tuple[str, ...], ...] | None:
    if names is None:
        return None
    if classes is None:
        raise ValueError("regression has no classes: leave class_names out")
    tasks, way = classes.shape
    if all(isinstance(name, str) for name in names):
        rows = (tuple(str(name) for name in names),) * tasks
    else:
        rows = tuple(tuple(map(str, row)) for row in names)
    if len(rows) != tasks or any(len(row) != way for row in rows):
        raise ValueError(
            f"{tasks} tasks of {way} classes, but class_names has"
            f" {sorted({len(row) for row in rows})} names for"
            f" {len(rows)} tasks: give {way} names, name j for the j-th"
            " smallest label, or a list of them for each task"
        )
    return rows


def _warn_of_a_single_query(learner: "Learner") -> None:
    if learner not in _warned:
        _warned.add(learner)
        warnings.warn(
            f"this {type(learner).__name__} is transductive: its answer to a"
            " query depends on the queries beside it, and here there is none."
            " It was trained to see several; for one at a time, build the"
            " network with norm='support' or norm='group'",
            stacklevel=4,
        )


_warned: "WeakSet[Learner]" = WeakSet()  # of a single query
Learner.predictor_type = Predictor
