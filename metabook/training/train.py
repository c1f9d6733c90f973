# SPDX-License-Identifier: MIT
"""The outer loop: sample tasks, add up the outer gradient, take a step.

Taught in section 2.1 of the book.
"""

import hashlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from metabook.data.files import load_state, save_state, write_whole
from metabook.learner.protocol import Learner
from metabook.tasks.episode import Episode, as_episodes
from metabook.tasks.protocol import Tasks
from metabook.training.evaluate import device_of, evaluate
from metabook.training.scores import Score

__all__ = ["History", "train"]


@dataclass
class History:
    """What `train` saw.

    Attributes
    ----------
    losses : list of float
        Outer loss of every iteration.
    validations : list of (iteration, mean, ci95)
    best_iteration : int, optional
        The iteration whose weights the learner now has; ``None`` without
        validation.
    seconds : float
        Time spent training and validating, over all resumed parts.

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.MAML(mb.MLP(1, 1), loss_fn=torch.nn.functional.mse_loss)
    >>> history = mb.train(
    ...     learner,
    ...     mb.Sinusoids(),
    ...     iterations=3,
    ...     tasks_per_batch=2,
    ...     progress=False,
    ... )
    >>> len(history.losses), history.best_iteration
    (3, None)
    """

    losses: list[float] = field(default_factory=list)
    validations: list[tuple[int, float, float]] = field(default_factory=list)
    best_iteration: int | None = None
    seconds: float = 0.0


def train(
    learner: Learner,
    tasks: Tasks,
    iterations: int = 2000,
    tasks_per_batch: int = 32,
    lr: float = 1e-3,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: str = "constant",
    valid: Tasks | None = None,
    valid_episodes: int = 200,
    valid_every: int = 500,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    progress: bool = True,
) -> History:
    """Meta-train a learner; with a checkpoint folder, also resume: run the same
    line again.

    Iteration i sees tasks ``i * tasks_per_batch`` and the following of
    ``tasks``, so a resumed run sees what an uninterrupted one sees, and ends
    with the same bits.

    Parameters
    ----------
    learner : Learner
        Changed in place, on its own device; in evaluation mode afterwards.
    tasks : FewShotTasks, Sinusoids, VariedTasks or another
        Anything with ``sample(tasks, start)``, which returns an `Episode`, or a
        list of them with T = 1 each where tasks differ in shape.
    iterations, tasks_per_batch : int
    lr : float
        Step size of Adam, unless ``optimizer`` is given.
    optimizer : torch.optim.Optimizer, optional
        Over the learner's parameters.
    schedule : {"constant", "cosine"}
        ``"cosine"`` lets every step size fall to zero along half a cosine by
        the last iteration.
    valid : tasks, optional
        Validation tasks. The learner ends with the weights of its best
        validation, not of its last iteration.
    valid_episodes, valid_every : int
        Size of a validation (always the same episodes), and iterations between
        two; the last one is at the end.
    checkpoint : path, optional
        Folder for ``last.pt``, ``best.pt``, ``config.json`` and ``log.jsonl``
        (one JSON object a line).
    checkpoint_every : int
        Iterations between two saves. Ctrl-C finishes the iteration, saves and
        stops; a second one stops at once.
    progress : bool
        Show a bar, where the output is a terminal.

    Returns
    -------
    History

    Raises
    ------
    FloatingPointError
        If the loss is not finite; the last checkpoint stays good.
    ValueError
        If the folder holds a run with other settings, or a longer one.

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
    if schedule not in ("constant", "cosine"):
        raise ValueError(
            f"schedule is {schedule!r}; choose 'constant' or 'cosine'"
        )
    for name, value in (
        ("iterations", iterations),
        ("tasks_per_batch", tasks_per_batch),
        ("valid_every", valid_every),
    ):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    device = device_of(learner)
    optimizer = optimizer or torch.optim.Adam(
        learner.parameters(), lr=lr, fused=device.type in ("cpu", "cuda")
    )
    run = _Run(
        learner, optimizer, None if checkpoint is None else Path(checkpoint)
    )
    run.resume(
        {
            "learner": repr(learner),
            "loss": getattr(learner.loss_fn, "__name__", repr(learner.loss_fn)),
            "tasks": _fingerprint(tasks),
            "tasks_per_batch": tasks_per_batch,
            "optimizer": (
                [type(optimizer).__name__]
                + [
                    {
                        k: v
                        for k, v in group.items()
                        if k not in ("params", "lr")
                    }
                    for group in optimizer.param_groups
                ]
            ),
            "lr": run.base_lrs,
            "schedule": (
                schedule if schedule == "constant" else [schedule, iterations]
            ),
            "valid": (
                None
                if valid is None
                else [_fingerprint(valid), valid_episodes, valid_every]
            ),
        }
    )
    history = run.history
    if len(history.losses) > iterations:
        raise ValueError(
            f"{checkpoint} holds {len(history.losses)} iterations already, more"
            f" than {iterations}"
        )
    bar = tqdm(
        total=iterations,
        initial=len(history.losses),
        desc="train",
        disable=None if progress else True,
    )
    learner.train()
    try:
        with _between_iterations() as stop_if_asked:
            while len(history.losses) < iterations:
                stop_if_asked()
                clock, done = time.perf_counter(), len(history.losses)
                factor = (
                    half_cosine(done / iterations)
                    if schedule == "cosine"
                    else 1.0
                )
                for group, base in zip(
                    optimizer.param_groups, run.base_lrs, strict=True
                ):
                    group["lr"] = base * factor
                sample = as_episodes(
                    tasks.sample(tasks_per_batch, done * tasks_per_batch)
                )
                history.losses.append(
                    _outer_step(
                        learner, optimizer, [e.to(device) for e in sample], done
                    )
                )
                done += 1
                if valid is not None and (
                    done % valid_every == 0 or done == iterations
                ):
                    run.validated(
                        evaluate(learner, valid, valid_episodes, progress=False)
                    )
                    bar.set_postfix_str(
                        f"valid {history.validations[-1][1]:.4f}"
                    )
                history.seconds += time.perf_counter() - clock
                bar.update()
                if done % checkpoint_every == 0 or done == iterations:
                    run.save()
    except _Asked:
        run.save()
        raise KeyboardInterrupt from None
    finally:
        bar.close()
        for group, base in zip(
            optimizer.param_groups, run.base_lrs, strict=True
        ):
            group["lr"] = base
    run.finish()
    learner.eval()
    return history


def half_cosine(done: float) -> float:
    """What is left of a step size that falls to zero along half a cosine, when
    this share of the training is done.
    """
    return 0.5 + 0.5 * math.cos(math.pi * done)


def _outer_step(
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    episodes: list[Episode],
    iteration: int,
) -> float:
    """One update of the parameters; if it cannot be made, weights and buffers
    stay those of the iteration before.
    """
    buffers = {name: b.clone() for name, b in learner.named_buffers()}
    optimizer.zero_grad()
    loss = float(
        learner.backward(episodes[0])
        if len(episodes) == 1
        else learner.backward_each(episodes)
    )
    bad = [
        n
        for n, p in learner.named_parameters()
        if p.grad is not None and not bool(torch.isfinite(p.grad).all())
    ]
    if math.isfinite(loss) and not bad:
        optimizer.step()
        return loss
    for name, b in learner.named_buffers():
        b.copy_(buffers[name])
    what = (
        f"the loss is {loss}"
        if not math.isfinite(loss)
        else f"the gradient of {bad[0]} is not finite"
    )
    raise FloatingPointError(
        f"{what} at iteration {iteration}; the weights are those of the"
        " iteration before. A smaller step size, in the inner loop first, is"
        " the usual cure; look also for infinite or missing values in the data"
    )


def _fingerprint(tasks: Tasks) -> str:
    """What the tasks deliver, not what they are called: other data, seed, way
    or shot gives another string.
    """
    sample = tasks.sample(1, 0)
    digest = hashlib.sha256()
    # where tasks differ in shape, the first one says too little about the
    # others
    for episode in (
        [sample]
        if isinstance(sample, Episode)
        else as_episodes(tasks.sample(16, 0))
    ):
        for part in (
            episode.support_x,
            episode.support_y,
            episode.query_x,
            episode.query_y,
        ):
            digest.update(
                str(tuple(part.shape)).encode() + part.cpu().numpy().tobytes()
            )
    return digest.hexdigest()[:16]


class _Asked(Exception):
    """Ctrl-C was pressed during the iteration that has just ended."""


@contextmanager
def _between_iterations() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back until the function that this yields is called: between
    two iterations a checkpoint makes sense.
    """
    asked: list[int] = []

    def stop_if_asked() -> None:
        if asked:
            raise _Asked

    def note(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield stop_if_asked  # only the main thread is told of signals
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield stop_if_asked
    finally:
        signal.signal(signal.SIGINT, before)


class _Run:
    """The state of a training run, and the folder that it is kept in."""

    def __init__(
        self,
        learner: Learner,
        optimizer: torch.optim.Optimizer,
        folder: Path | None,
    ) -> None:
        self.learner, self.optimizer, self.folder = learner, optimizer, folder
        self.base_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        self.history = History()
        self.best_mean: float | None = None
        self.best_weights: dict[str, Tensor] | None = None

    def resume(self, config: dict[str, Any]) -> None:
        """Go on from the folder's checkpoint, if its settings are these."""
        if self.folder is None:
            return
        text = json.dumps(config, indent=1, default=str)
        settings, last = self.folder / "config.json", self.folder / "last.pt"
        if last.exists():
            before = json.loads(settings.read_text("utf8"))
            now = json.loads(text)
            changed = [k for k in now if before.get(k) != now[k]]
            if changed:
                raise ValueError(
                    f"{self.folder} holds a run with other settings:"
                    f" {', '.join(changed)} differ (see config.json). Choose"
                    " another folder, or remove this one"
                )
            self._load(load_state(last))
        write_whole(settings, text.encode())

    def validated(self, score: Score) -> None:
        """Record a validation, and keep the weights if they are the best."""
        self.history.validations.append(
            (len(self.history.losses), score.mean, score.ci95)
        )
        if score.better_than(self.best_mean):
            self.best_mean = score.mean
            self.history.best_iteration = len(self.history.losses)
            self.best_weights = {
                name: w.detach().clone()
                for name, w in self.learner.state_dict().items()
            }

    def save(self) -> None:
        """Write the checkpoint, then the log up to it."""
        if self.folder is None:
            return
        history = self.history
        save_state(
            self.folder / "last.pt",
            {
                "learner": self.learner.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "history": vars(history),
                "best_weights": self.best_weights,
                "best_mean": self.best_mean,
                "random_state": torch.get_rng_state(),
                "cuda_random_state": torch.cuda.get_rng_state_all(),
            },
        )
        if self.best_weights is not None:
            save_state(self.folder / "best.pt", self.best_weights)
        lines: list[dict[str, Any]] = [
            {"iteration": i + 1, "loss": loss}
            for i, loss in enumerate(history.losses)
        ]
        for iteration, mean, ci95 in history.validations:
            lines[iteration - 1] |= {"valid": mean, "ci95": ci95}
        write_whole(
            self.folder / "log.jsonl",
            "".join(json.dumps(line) + "\n" for line in lines).encode(),
        )

    def finish(self) -> None:
        """Give the learner the weights of its best validation."""
        if self.best_weights is not None:
            self.learner.load_state_dict(self.best_weights)

    def _load(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = History(**state["history"])
        self.best_mean = state["best_mean"]
        self.best_weights = state["best_weights"]
        torch.set_rng_state(state["random_state"])
        if state["cuda_random_state"]:
            torch.cuda.set_rng_state_all(state["cuda_random_state"])
