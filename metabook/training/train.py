# SPDX-License-Identifier: MIT
"""The outer loop: sample tasks, add up the outer gradient, take a step.

Taught in section 2.1 of the book.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias

import torch

from metabook.data.progress import progress_bar
from metabook.learner.precision import refuse_float16
from metabook.learner.protocol import Learner
from metabook.tasks.protocol import Tasks
from metabook.training.checkpoints import RunFolder
from metabook.training.distributed import joined
from metabook.training.evaluate import device_of, evaluate, placed
from metabook.training.history import History
from metabook.training.interrupts import CtrlC
from metabook.training.modes import put_in_training_mode
from metabook.training.outer_step import outer_step
from metabook.training.schedules import Schedule, StepSizes
from metabook.training.state import KEYS, TrainingState
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
    _check_optimizer(optimizer, learner)
    learner.check_optimizer(optimizer)
    steps = StepSizes(optimizer, schedule, iterations)
    run = TrainingState(learner, optimizer, steps)

    def run_settings() -> dict[str, Any]:
        of_valid = valid and {
            "tasks": tasks_settings(valid, min(valid_episodes, 16)),
            "episodes": valid_episodes,
            "every": valid_every,
        }
        changes = {"clip": clip, "valid": of_valid}
        return run.settings() | stream.settings() | changes

    folder = RunFolder(checkpoint, "training", KEYS, run_settings)
    if not processes.first:
        folder.path = None  # one process reads and writes for all

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
        if run.done > iterations:
            raise ValueError(
                f"{checkpoint} holds {run.done} iterations already, more than"
                f" {iterations}"
            )
        bar.update(run.done)
        put_in_training_mode(learner, but=run.still)
        batches = stream.start(run.done)
        try:
            while run.done < iterations:
                clock = perf_counter()
                with run.kept_in(folder), ctrl_c.let_through():
                    episodes = [placed(e, learner) for e in next(batches)]
                steps.set(run.done)
                loss = outer_step(
                    learner, optimizer, episodes, run.done, clip, processes
                )
                steps.step()
                run.history.losses.append(loss)
                last = run.done == iterations
                if valid is not None and (last or run.done % valid_every == 0):
                    validation = partial(
                        evaluate, learner, valid, valid_episodes, progress=False
                    )
                    run.validated(processes.from_first(validation))
                    mean = run.history.validations[-1][1]
                    bar.set_postfix_str(f"valid {mean:.4f}")
                run.history.seconds += perf_counter() - clock
                if on_iteration is not None:
                    with run.kept_in(folder):
                        on_iteration(run.done, loss, learner)
                if last or run.done % checkpoint_every == 0:
                    run.save(folder)
                bar.update()
            run.finish()
        finally:
            steps.give_back()
            if folder.path is not None:
                run.leave()
        ctrl_c.check()
    return run.history


def _check_optimizer(
    optimizer: torch.optim.Optimizer, learner: Learner
) -> None:
    """Refuse an optimiser that would move nothing of the learner's."""
    own = {id(p) for p in learner.parameters()}
    groups = optimizer.param_groups
    if not any(id(p) in own for group in groups for p in group["params"]):
        raise ValueError(
            f"the {type(optimizer).__name__} has no parameter of this"
            f" {type(learner).__name__}, so that nothing would be trained: make"
            " it over learner.parameters()"
        )


def _check_numbers(**numbers: int) -> None:
    for name, value in numbers.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(
                f"{name} is {value}; it must be a whole number from 1"
            )
