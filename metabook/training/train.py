# SPDX-License-Identifier: MIT
"""The outer loop: sample tasks, add up the outer gradient, take a step.

Taught in section 2.1 of the book.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias

import torch
from torch import nn

from metabook.data.progress import progress_bar
from metabook.data.settings import settings
from metabook.learner.precision import forget_casts, refuse_float16
from metabook.learner.protocol import Learner
from metabook.tasks.episode import Episode
from metabook.tasks.protocol import Tasks
from metabook.training.checkpoints import RunFolder
from metabook.training.distributed import Processes, joined
from metabook.training.evaluate import device_of, evaluate, placed
from metabook.training.history import History
from metabook.training.interrupts import CtrlC
from metabook.training.schedules import Schedule, StepSizes
from metabook.training.state import KEYS, TrainingState, optimizer_settings
from metabook.training.stream import Episodes, Stream, tasks_settings

__all__ = ["train"]

OnIteration: TypeAlias = Callable[[int, float, Learner], object]


def train(
    learner: Learner,
    tasks: Episodes,
    iterations: int = 2000,
    tasks_per_batch: int = 32,
    *,
    lr: float = 1e-3,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: Schedule = None,
    clip: float | None = None,
    valid: Tasks | None = None,
    valid_episodes: int = 200,
    valid_every: int = 500,
    on_iteration: OnIteration | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 100,
    progress: bool = True,
) -> History:
    """Meta-train a learner; with a checkpoint folder, also resume: run the same
    line again.

    Iteration i sees tasks ``i * tasks_per_batch`` and the following of
    ``tasks``, so a resumed run sees what an uninterrupted one sees, and ends
    with the same bits.

    Started by ``torchrun``, or where ``torch.distributed`` is initialised, the
    processes share the tasks of every batch, and end with the weights of one
    process, up to rounding. Validation, checkpoint and bar are the first one's.
    Running statistics move by the mean of what they move on each process, and
    each has random numbers of its own for dropout.

    Parameters
    ----------
    learner : Learner
        Changed in place, on its own device; in evaluation mode afterwards.
        Episodes in float32 are taken to the type of its weights.
        While it trains, modules that were put in evaluation mode, as a frozen
        batch norm is, stay in it.
    tasks : FewShotTasks, Sinusoids, VariedTasks or another
        Anything with ``sample(tasks, start)``, which returns an `Episode`, or a
        list of them with T = 1 each where tasks differ in shape. Or an iterable
        of such batches, taken as they come; of these only an `episode_loader`
        can be resumed.
    iterations : int
        Steps of the optimiser.
    tasks_per_batch : int
        Tasks a step, of all processes together; of an iterable, its own
        batches count, and every process must get the same ones.
    lr : float
        Step size of Adam, unless ``optimizer`` is given.
    optimizer : torch.optim.Optimizer, optional
        Over the learner's parameters.
    schedule : {"constant", "cosine"}, callable or LRScheduler, optional
        ``"cosine"`` lets every step size fall to zero along half a cosine by
        the last iteration. A callable gets the share of the training that is
        done, 0 to 1, and returns a factor. A scheduler of torch, over the
        optimiser that is given, is stepped once an iteration.
    clip : float, optional
        Largest norm of the gradient over all parameters; a longer one is
        scaled down.
    valid : tasks, optional
        Validation tasks. The learner ends with the weights of its best
        validation, not of its last iteration.
    valid_episodes, valid_every : int
        Size of a validation (always the same episodes), and iterations between
        two; the last one is at the end.
    on_iteration : callable, optional
        ``on_iteration(iteration, loss, learner)`` is called after each
        iteration, on every process; they count from 1.
    checkpoint : path, optional
        Folder for ``last.pt`` (the state), ``best.pt`` (the best weights, or
        the last ones without validation: for ``torch.load``) and ``log.jsonl``
        (one JSON object a line). A folder that holds a run with other settings
        is refused; `Learner.settings` says what counts.
    checkpoint_every : int
        Iterations between two saves. Ctrl-C finishes the iteration, saves and
        stops; a second one stops at once.
    progress : bool
        Show a bar, on a terminal or in a notebook.

    Returns
    -------
    History

    Raises
    ------
    FloatingPointError
        If the loss is not finite; the last checkpoint stays good.
    ValueError
        If the folder holds a run with other settings or a longer one, the
        episodes come to an end, the learner learns nothing across tasks, or
        its weights are float16.
    OSError
        If the folder is being written by another process, or cannot be written.
    RuntimeError
        If one of several processes has ended.

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.MAML(
    ...     mb.MLP(1, 1), inner_lr=0.01, loss_fn=torch.nn.functional.mse_loss
    ... )
    >>> history = mb.train(
    ...     learner, mb.Sinusoids(shot=10), iterations=5, tasks_per_batch=4
    ... )
    >>> len(history.losses)
    5
    """
    _check_numbers(
        iterations=iterations,
        tasks_per_batch=tasks_per_batch,
        valid_episodes=valid_episodes,
        valid_every=valid_every,
        checkpoint_every=checkpoint_every,
    )
    if clip is not None and not clip > 0:
        raise ValueError(f"clip is {clip}; it must be above 0")
    if not any(p.requires_grad for p in learner.parameters()):
        raise ValueError(
            f"no parameter of {type(learner).__name__} requires a gradient, so"
            " that it learns nothing across tasks: evaluate it as it is"
        )
    refuse_float16(learner)
    device = device_of(learner)
    processes = joined(device)
    stream = Stream(tasks, tasks_per_batch, processes)
    if checkpoint is not None and stream.indexed is None:
        raise ValueError(
            f"a {type(tasks).__name__} cannot go on in the middle, so a run on"
            " it cannot be resumed: leave checkpoint out, or train on tasks"
            " with sample(tasks, start) or on an episode_loader"
        )
    optimizer = optimizer or torch.optim.Adam(
        learner.parameters(), lr=lr, fused=device.type in ("cpu", "cuda")
    )
    learner.check_optimizer(optimizer)
    steps = StepSizes(optimizer, schedule, iterations)
    keep_mode = _kept_in_evaluation_mode(learner)

    def run_settings() -> dict[str, Any]:
        of_valid = valid and {
            "tasks": tasks_settings(valid, min(valid_episodes, 16)),
            "episodes": valid_episodes,
            "every": valid_every,
        }
        frozen = [
            n for n, p in learner.named_parameters() if not p.requires_grad
        ]
        return {
            "learner": settings(learner, "learner"),
            "frozen": frozen,
            "in_evaluation_mode": sorted(keep_mode),
            **stream.settings(),
            "optimizer": optimizer_settings(optimizer),
            "lr": steps.base,
            "schedule": steps.settings(),
            "clip": clip,
            "valid": of_valid,
        }

    run = TrainingState(learner, optimizer, steps)
    folder = RunFolder(checkpoint, "training", KEYS, run_settings)
    if not processes.first:
        folder.path = None  # one process reads and writes for all
    history = run.history

    def save() -> None:
        best = run.best_weights or learner.state_dict()
        folder.save(run.state_dict(), history.lines, best)

    @contextmanager
    def saved_on_error() -> Iterator[None]:
        try:  # between two iterations: what is done is kept
            yield
        except BaseException:
            if history.losses:
                save()
            raise

    with (
        ExitStack() as opened,
        CtrlC() as ctrl_c,
        progress_bar(
            total=iterations, desc="train", show=progress and processes.first
        ) as bar,
    ):

        def begin() -> None:
            state = opened.enter_context(
                folder.opened(lambda state: len(state["losses"]) >= iterations)
            )
            if folder.path is not None:
                with folder.naming():
                    run.begin(state, folder.path / "best.pt")

        processes.from_first(begin)
        processes.follow_first(run)
        if len(history.losses) > iterations:
            raise ValueError(
                f"{checkpoint} holds {len(history.losses)} iterations already,"
                f" more than {iterations}"
            )
        bar.update(len(history.losses))
        learner.train()
        for name in keep_mode:
            learner.get_submodule(name).training = False
        batches = stream.start(len(history.losses))
        try:
            while (done := len(history.losses)) < iterations:
                clock = perf_counter()
                with saved_on_error(), ctrl_c.let_through():
                    episodes = next(batches, None)
                    if episodes is None:
                        raise ValueError(
                            f"the episodes came to an end after {done} of"
                            f" {iterations} iterations: give as many, for"
                            " example by itertools.cycle(list_of_episodes)"
                        )
                steps.set(done)
                loss = _outer_step(
                    learner,
                    optimizer,
                    [placed(e, learner) for e in episodes],
                    done,
                    clip,
                    processes,
                )
                steps.step()
                history.losses.append(loss)
                done += 1
                if valid is not None and (
                    done % valid_every == 0 or done == iterations
                ):
                    validation = partial(
                        evaluate, learner, valid, valid_episodes, progress=False
                    )
                    score = processes.from_first(validation)
                    run.validated(score)
                    bar.set_postfix_str(f"valid {score.mean:.4f}")
                history.seconds += perf_counter() - clock
                if on_iteration is not None:
                    with saved_on_error():
                        on_iteration(done, loss, learner)
                if done % checkpoint_every == 0 or done == iterations:
                    save()
                bar.update()
            run.finish()
        finally:
            steps.give_back()
            if folder.path is not None:
                run.leave()
        ctrl_c.check()
    return history


def _check_numbers(**numbers: int) -> None:
    for name, value in numbers.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(
                f"{name} is {value}; it must be a whole number from 1"
            )


def _kept_in_evaluation_mode(learner: Learner) -> set[str]:
    """The modules that training leaves in evaluation mode: those that were put
    in it alone; and, of a learner that is in it as a whole, those without a
    weight that is trained.
    """
    frozen = {
        name
        for name, module in learner.named_modules()
        if (of := list(module.parameters()))
        and not any(p.requires_grad for p in of)
    }

    def inside(name: str) -> bool:
        return any(f"{name}.".startswith(f"{f}.") for f in frozen)

    return {
        name
        for name, module in learner.named_modules()
        if not module.training and (learner.training or inside(name))
    }


def _outer_step(
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    episodes: list[Episode],
    iteration: int,
    clip: float | None,
    processes: Processes,
) -> float:
    """One update of the parameters; if it cannot be made, weights and buffers
    stay those of the iteration before.
    """
    buffers = {name: b.clone() for name, b in learner.named_buffers()}
    try:
        forget_casts()
        optimizer.zero_grad()
        learner.zero_grad()  # also of weights that the optimiser has not
        with torch.enable_grad(), processes.own_random(device_of(learner)):
            loss = float(
                learner.backward(episodes[0])
                if len(episodes) == 1
                else learner.backward_each(episodes)
            )
        loss = processes.average(
            learner, loss, sum(map(len, episodes)), buffers
        )
        _check_finite(learner, loss, iteration)
    except BaseException:
        for name, b in learner.named_buffers():
            b.copy_(buffers[name])
        raise
    if clip is not None:
        nn.utils.clip_grad_norm_(learner.parameters(), clip)
    optimizer.step()
    return loss


def _check_finite(learner: Learner, loss: float, iteration: int) -> None:
    what = f"the loss is {loss}" if not math.isfinite(loss) else ""
    for name, p in learner.named_parameters():
        finite = p.grad is None or bool(torch.isfinite(p.grad).all())
        if not what and not finite:
            what = f"the gradient of {name} is not finite"
    if what:
        raise FloatingPointError(
            f"{what} at iteration {iteration + 1}; the weights are those of the"
            " iteration before. A smaller step size, in the inner loop first,"
            " is the usual cure; look also for infinite or missing values in"
            " the data"
        )
