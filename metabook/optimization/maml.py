# SPDX-License-Identifier: MIT
"""MAML: learn the weights from which a few gradient steps learn a new task.

    theta_i = theta - lr * grad L_support,i(theta)          inner loop, once or several times
    min over theta of  mean_i L_query,i(theta_i)            outer loop

Finn, Abbeel & Levine, *Model-Agnostic Meta-Learning for Fast Adaptation of Deep
Networks*, 2017, https://arxiv.org/abs/1703.03400. Taught in sections 3.1, 4.1
and 5.1 of the book.
"""

import copy
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from queue import SimpleQueue

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm

from metabook.learner.labels import check_batch, label_columns, query_targets
from metabook.learner.protocol import Learner, LossFn
from metabook.optimization.execution.compiled import Programs
from metabook.optimization.execution.side_by_side import (
    call,
    obstacle,
    support_statistics,
    worthwhile,
)
from metabook.optimization.inner_loop import (
    Weights,
    add_to_grad,
    gradient_steps,
    twice_differentiable,
)
from metabook.tasks.episode import Episode

__all__ = ["MAML"]

# tasks that are computed side by side: enough to keep a processor busy, and a
# bound on memory
TOGETHER = 32


class MAML(Learner):
    """Model-agnostic meta-learning, of second order unless said otherwise.

    Parameters
    ----------
    model : nn.Module
        Any network of floating inputs; for classes, its outputs are as wide as
        a task has classes. All of its parameters that require gradients are
        adapted.
    inner_lr : float
        Step size of the inner loop.
    inner_steps : int
        Steps of the inner loop, in training and, unless ``steps=`` says
        otherwise, at test.
    first_order : bool
        Leave out the derivative of the inner gradient (FOMAML): cheaper, and
        another gradient.
    loss_fn : callable
        Cross-entropy for classes; ``torch.nn.functional.mse_loss`` for
        regression.
    vectorized : bool, optional
        Compute tasks side by side, up to 32 at once, or one after another.
        Unless given, whichever is faster: side by side for multilayer
        perceptrons, and on a GPU; one after another for other networks on a
        CPU.
    threads : int, optional
        Tasks one after another on so many cores at once, in `backward`; as many
        as torch uses, unless given. A model that draws random numbers in its
        forward, other than by dropout layers, needs 1.
    query_dtype : torch.dtype, optional
        Compute the query pass under autocast to this type, such as
        ``torch.bfloat16``, where the processor is faster at it; the inner loop
        keeps its precision. The gradient then errs by about a percent.
    compiled : bool
        Compile the outer gradient, tasks side by side: half a minute for each
        shape of tasks and a C++ compiler, for a multiple of the speed on small
        networks.

    Raises
    ------
    ValueError
        If the model has normalisation with running statistics (tasks would see
        each other through them), torch's weight norm (whose second derivative
        is wrong), nothing to adapt, dropout together with several threads (they
        would share one random state), or a layer that cannot be vectorized
        although this was asked for.

    References
    ----------
    Finn, Abbeel & Levine, 2017, https://arxiv.org/abs/1703.03400

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.MAML(mb.MLP(1, 1), inner_lr=0.01, loss_fn=F.mse_loss)
    >>> episode = mb.Sinusoids(shot=10, query=20).sample(4)
    >>> learner(
    ...     episode.support_x, episode.support_y, episode.query_x, steps=5
    ... ).shape
    torch.Size([4, 20, 1])
    """

    def __init__(
        self,
        model: nn.Module,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        first_order: bool = False,
        loss_fn: LossFn = F.cross_entropy,
        vectorized: bool | None = None,
        threads: int | None = None,
        query_dtype: torch.dtype | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__(loss_fn)
        if inner_steps < 1:
            raise ValueError(
                f"inner_steps is {inner_steps}; without a step MAML is joint"
                " training"
            )
        _refuse_unfit_layers(model, first_order)
        if not any(p.requires_grad for p in model.parameters()):
            raise ValueError(
                "no parameter of the model requires a gradient: there is"
                " nothing to adapt"
            )
        dropout = any(
            isinstance(m, nn.modules.dropout._DropoutNd)
            for m in model.modules()
        )
        if dropout and threads is not None and threads > 1:
            raise ValueError(
                "the model has dropout, whose random state threads would share:"
                " use threads=1"
            )
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; it must be at least 1")
        if compiled and vectorized is False:
            raise ValueError(
                "what is compiled are tasks side by side: leave"
                " vectorized=False out"
            )
        if (vectorized or compiled) and obstacle(model):
            raise ValueError(
                f"the tasks cannot be computed side by side: {obstacle(model)};"
                " use vectorized=False"
            )
        self.model, self.inner_lr, self.inner_steps, self.first_order = (
            model,
            inner_lr,
            inner_steps,
            first_order,
        )
        self.vectorized, self.threads, self.query_dtype = (
            compiled or vectorized,
            1 if dropout else threads,
            query_dtype,
        )
        self.programs = Programs() if compiled else None

    @property
    def transductive(self) -> bool:
        """Whether the prediction for a query may depend on the other queries:
        not by way of `SupportNorm`.
        """
        return any(
            isinstance(m, nn.modules.batchnorm._BatchNorm)
            for m in self.model.modules()
        )

    def extra_repr(self) -> str:
        """The settings that make another method or another run."""
        order = "first" if self.first_order else "second"
        half = (
            ""
            if self.query_dtype is None
            else f", query_dtype={self.query_dtype}"
        )
        return (
            f"inner_lr={self.inner_lr}, inner_steps={self.inner_steps}, {order}"
            f" order{half}"
        )

    def forward(
        self,
        support_x: Tensor,
        support_y: Tensor,
        query_x: Tensor,
        steps: int | None = None,
    ) -> Tensor:
        """Adapt to each task and predict its queries, (T, Q, way) or the shape
        of the targets.

        ``steps`` overrides ``inner_steps``; the other arguments are those of
        `Learner`.
        """
        check_batch(self, support_x, support_y, query_x)
        targets, way = _columns(support_y)
        parts = self._parts(support_x, targets, query_x)
        return torch.cat(
            [
                self._predict(self._adapt(x, y, way, steps), q)
                for x, y, q in parts
            ]
        )

    def forward_each_step(
        self,
        support_x: Tensor,
        support_y: Tensor,
        query_x: Tensor,
        steps: int | None = None,
    ) -> Tensor:
        """Predictions after 0, 1, ..., ``steps`` inner steps, (steps + 1, T, Q,
        way) or the shape of the targets.
        """
        check_batch(self, support_x, support_y, query_x)
        targets, way = _columns(support_y)
        parts = []
        for x, y, q in self._parts(support_x, targets, query_x):
            path = self._path(x, y, way, steps, every=True)
            parts.append(
                torch.stack(
                    [
                        self._predict(self._finish(w, s, x), q)
                        for s, w in enumerate(path)
                    ]
                )
            )
        return torch.cat(parts, dim=1)

    def adapt(
        self, support_x: Tensor, support_y: Tensor, steps: int | None = None
    ) -> Weights:
        """The fast weights of each task, {name: (T, ...)}; the model is left as
        it is.
        """
        check_batch(self, support_x, support_y, support_x)
        targets, way = _columns(support_y)
        parts = [
            self._adapt(x, y, way, steps)
            for x, y in self._parts(support_x, targets)
        ]
        return {
            name: torch.cat([fast[name] for fast in parts]) for name in parts[0]
        }

    def predict_with(self, fast: Weights, query_x: Tensor) -> Tensor:
        """Predict queries (T, Q, ...) with the fast weights of their tasks, as
        `adapt` returns them.
        """
        if any(len(w) != len(query_x) for w in fast.values()):
            raise ValueError(
                f"queries of {len(query_x)} tasks, but fast weights of"
                f" {len(next(iter(fast.values())))}"
            )
        modules = dict(self.model.named_modules())
        foreign = [
            name
            for name in fast
            if not hasattr(
                modules.get(name.rpartition(".")[0]), name.rpartition(".")[2]
            )
        ]
        if foreign:
            raise ValueError(
                f"the model has no {foreign[0]!r}: fast weights are named as"
                " adapt names them"
            )
        parts = self._parts(query_x, *fast.values())
        return torch.cat(
            [
                self._predict(dict(zip(fast, w, strict=True)), q)
                for q, *w in parts
            ]
        )

    def loss(self, episode: Episode) -> Tensor:
        """The mean over the tasks of the query loss after adapting; a scalar."""
        episode, way = self.in_columns(episode)
        parts = episode.split(self._together(episode.support_x))
        return torch.stack(
            [self._summed_loss(part, way) for part in parts]
        ).sum() / len(episode)

    def backward(self, episode: Episode) -> float:
        """Add the gradient of the mean query loss to ``.grad`` and return the
        loss.

        One task, or at most 32 side by side, at a time, so that memory does not
        grow with T; summed in the order of the tasks, whatever the number of
        threads.
        """
        episode, way = self.in_columns(episode)
        size = self._together(episode.support_x)
        with torch.enable_grad(), twice_differentiable(self.first_order_now()):
            copies = self._copies(len(episode)) if size == 1 else []
            if copies:
                return self._backward_on_threads(episode, way, copies)
            return sum(
                self._backward(part, way, len(episode))
                for part in episode.split(size)
            )

    def _backward(self, part: Episode, way: int | None, tasks: int) -> float:
        def mean_loss(*tensors: Tensor) -> Tensor:
            return self._summed_loss(Episode(*tensors), way) / tasks

        tensors = part.support_x, part.support_y, part.query_x, part.query_y
        if self.programs is not None:
            return float(
                self.programs.backward(
                    self,
                    mean_loss,
                    tensors,
                    settings=(way, tasks, self.loss_fn),
                )
            )
        loss = mean_loss(*tensors)
        # not autograd.grad: for an operation that is only once differentiable
        # it would return a wrong gradient without a word, where backward raises
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _copies(self, tasks: int) -> list["MAML"]:
        """A learner for every thread, since a call borrows the module's
        weights; none where one core is to do it all.
        """
        threads = min(self.threads or torch.get_num_threads(), tasks)
        hooked = any(
            p._backward_hooks for p in self.parameters()
        )  # copies would lose them
        if (
            threads == 1
            or hooked
            or torch.is_autocast_enabled("cpu")
            or next(self.parameters()).is_cuda
        ):
            return []
        try:
            return [copy.deepcopy(self) for _ in range(threads)]
        except (
            RuntimeError
        ):  # a module that keeps an activation cannot be copied
            return []

    def _backward_on_threads(
        self, episode: Episode, way: int | None, copies: list["MAML"]
    ) -> float:
        """One task at a time on every core; the gradients are added up in the
        order of the tasks.
        """
        free: SimpleQueue[MAML] = SimpleQueue()
        for learner in copies:
            free.put(learner)

        def gradient(task: Episode) -> tuple[float, list[Tensor | None]]:
            learner = free.get()
            try:
                learner.zero_grad()
                return learner._backward(task, way, len(episode)), [
                    p.grad for p in learner.parameters()
                ]
            finally:
                free.put(learner)

        total = 0.0
        with _one_core_each(len(copies)) as pool:
            for loss, grads in pool.map(gradient, episode.tasks()):
                total += loss
                for p, g in zip(self.parameters(), grads, strict=True):
                    if g is not None:
                        add_to_grad(p, g)
        return total

    def adapted(self) -> Weights:
        """The weights that the inner loop changes, by name: here all that
        require gradients.
        """
        return {
            name: p
            for name, p in self.model.named_parameters()
            if p.requires_grad
        }

    def step_sizes(self, step: int) -> float | Weights:
        """The step size of inner step 0, 1, ...: here one number for all steps
        and all weights.
        """
        return self.inner_lr

    def at_step(self, step: int) -> Weights:
        """Weights outside of the inner loop that belong to one of its steps:
        none, in MAML itself.
        """
        return {}

    def first_order_now(self) -> bool:
        """Whether the second derivatives are left out: here always or never."""
        return self.first_order

    def support_loss(
        self, weights: Weights, step: int, x: Tensor, y: Tensor, way: int | None
    ) -> Tensor:
        """What inner step 0, 1, ... goes down, summed over the tasks: their
        losses on the support sets.
        """
        return self._summed(
            call(self.model, weights | self._shared(step, len(x)), x), y, way
        )

    def in_columns(self, episode: Episode) -> tuple[Episode, int | None]:
        """The episode, checked, with columns in place of labels; and the number
        of classes, none for regression.
        """
        check_batch(self, episode.support_x, episode.support_y, episode.query_x)
        columns, way = _columns(episode.support_y)
        targets = query_targets(
            episode.support_y, episode.query_y
        )  # a label that the support set lacks raises
        return (
            Episode(episode.support_x, columns, episode.query_x, targets),
            way,
        )

    def _adapt(
        self, x: Tensor, y: Tensor, way: int | None, steps: int | None
    ) -> Weights:
        """All that a task learns: its fast weights, and the statistics of its
        support set where they are used.
        """
        (weights,) = self._path(x, y, way, steps, every=False)
        return self._finish(
            weights, self.inner_steps if steps is None else steps, x
        )

    def _path(
        self,
        x: Tensor,
        y: Tensor,
        way: int | None,
        steps: int | None,
        every: bool,
    ) -> list[Weights]:
        """The weights after the last step, or ``every``: after 0, 1, ... steps,
        {name: (T, ...)}.
        """
        steps = self.inner_steps if steps is None else steps
        if steps < 0:
            raise ValueError(f"steps is {steps}; it cannot be negative")
        keep = (
            torch.is_grad_enabled()
        )  # the caller's gradients are on: the result stays connected to theta
        graph = keep and not self.first_order_now()
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "the inner loop takes gradients, which torch.inference_mode()"
                " forbids: use torch.no_grad(), under which no graph is kept"
                " either"
            )
        if torch.is_autocast_enabled(x.device.type) and graph and steps:
            raise RuntimeError(
                "under autocast the second derivatives of the inner loop would"
                " be computed in half precision, which ruins them: leave"
                " autocast, or use first_order=True"
            )
        theta = {
            name: p.expand(len(x), *p.shape)
            for name, p in self.adapted().items()
        }
        if not keep:
            theta = {
                name: p.detach().requires_grad_() for name, p in theta.items()
            }

        def loss(weights: Weights, step: int) -> Tensor:
            return self.support_loss(weights, step, x, y, way)

        with torch.enable_grad(), twice_differentiable(self.first_order_now()):
            walk = gradient_steps(
                theta, loss, self.step_sizes, steps, graph, connected=keep
            )
            path = deque(walk, maxlen=None if every else 1)
        return (
            list(path)
            if keep
            else [
                {name: w.detach() for name, w in weights.items()}
                for weights in path
            ]
        )

    def _finish(self, weights: Weights, step: int, x: Tensor) -> Weights:
        """Fast weights, with what else the queries are predicted with after
        this many steps.
        """
        # the queries follow the last step that was taken, and use its
        # normalisation
        fast = weights | self._shared(max(step - 1, 0), len(x))
        return fast | support_statistics(self.model, fast, x)

    def _shared(self, step: int, tasks: int) -> Weights:
        return {
            name: w.expand(tasks, *w.shape)
            for name, w in self.at_step(step).items()
        }

    def _predict(self, fast: Weights, x: Tensor) -> Tensor:
        with twice_differentiable(self.first_order_now()):
            return call(self.model, fast, x)

    def _summed_loss(self, part: Episode, way: int | None) -> Tensor:
        """The sum of the tasks' query losses after adapting; labels are columns
        already.
        """
        fast = self._adapt(part.support_x, part.support_y, way, None)
        return self._query_loss(fast, part.query_x, part.query_y, way)

    def _query_loss(
        self, fast: Weights, query_x: Tensor, targets: Tensor, way: int | None
    ) -> Tensor:
        half = (
            nullcontext()
            if self.query_dtype is None
            else torch.autocast(query_x.device.type, self.query_dtype)
        )
        with half:
            predictions = self._predict(fast, query_x)
        if self.query_dtype is not None:  # the loss is taken in full precision
            full = torch.promote_types(predictions.dtype, torch.float32)
            predictions = predictions.to(full)
        return self._summed(predictions, targets, way)

    def _summed(
        self, predictions: Tensor, targets: Tensor, way: int | None
    ) -> Tensor:
        """The sum of the tasks' losses, from (T, N, ...); each is a mean over
        N, unless ``loss_fn`` says otherwise.
        """
        if way is not None and predictions.shape[-1] != way:
            raise ValueError(
                f"the model has {predictions.shape[-1]} outputs but the tasks"
                f" have {way} classes: the head is as wide as a task; build the"
                f" model with {way} outputs"
            )
        if self.loss_fn in (
            F.mse_loss,
            F.cross_entropy,
        ):  # one call for all tasks: the mean of means of equal size
            return len(predictions) * self.compare(
                predictions.flatten(0, 1), targets.flatten(0, 1)
            )
        return torch.stack(
            [
                self.compare(p, t)
                for p, t in zip(predictions, targets, strict=True)
            ]
        ).sum()

    def _together(self, x: Tensor) -> int:
        """How many tasks are computed at once."""
        return (
            TOGETHER
            if (
                worthwhile(self.model, x.device)
                if self.vectorized is None
                else self.vectorized
            )
            else 1
        )

    def _parts(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Tensors (T, ...) in pieces of as many tasks as are computed at once."""
        size = self._together(tensors[0])
        return zip(*(torch.split(t, size) for t in tensors), strict=True)


@contextmanager
def _one_core_each(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Several threads with one core each, in place of torch's own, which share
    the work inside of an operation.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # else every thread would ask for all cores
    pool = ThreadPoolExecutor(
        threads, initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        yield pool
    finally:
        pool.shutdown(
            cancel_futures=True
        )  # after an error the rest need not be computed
        torch.set_num_threads(before)


def _columns(support_y: Tensor) -> tuple[Tensor, int | None]:
    """Columns in place of labels, and how many classes they are; floating
    targets stay, without classes.
    """
    if support_y.is_floating_point():
        return support_y, None
    classes, columns = label_columns(support_y)
    return columns, classes.shape[1]


def _refuse_unfit_layers(model: nn.Module, first_order: bool) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _WeightNorm) and not first_order:
            raise ValueError(
                f"{name} is torch's weight norm, whose second derivative is"
                " wrong, without a word (seen in torch 2.13): write g * v /"
                " v.norm() out in the model, or use first_order=True"
            )
        if getattr(module, "running_mean", None) is not None:
            raise ValueError(
                f"{name or 'the model'} is a {type(module).__name__} with"
                " running statistics, through which tasks would see each"
                " other. Build it with track_running_stats=False (Conv4:"
                " norm='batch_stats', and the learner is transductive), with"
                " SupportNorm (Conv4: norm='support'), or with group norm"
                " (Conv4: norm='group')"
            )
