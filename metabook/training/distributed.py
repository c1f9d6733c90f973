# SPDX-License-Identifier: MIT
"""A training that several processes share, on one machine or on many, by
``torch.distributed``.

    gradient = sum_r n_r gradient_r / sum_r n_r

Process r computes the mean gradient of its own n_r tasks of the batch; with the
mean of all, every process takes the same step.
"""

import atexit
import io
import multiprocessing
import os
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from metabook.learner.protocol import Learner
from metabook.tasks.episode import Episode
from metabook.training.state import TrainingState

__all__ = ["Processes", "joined"]

LAUNCHED = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}

Made = TypeVar("Made")


def joined(device: torch.device) -> "Processes":
    """The processes that this one belongs to.

    They are those of ``torch.distributed`` where it is initialised. Where it is
    not, but ``torchrun`` has started this process, it is initialised here, with
    NCCL for a learner on a GPU and gloo on the CPU. Anywhere else, this process
    is alone.

    Parameters
    ----------
    device : torch.device
        Where the learner is.

    Examples
    --------
    >>> alone = joined(torch.device("cpu"))
    >>> alone.rank, alone.size
    (0, 1)
    """
    if not dist.is_available():
        return Processes(0, 1)
    # a worker of a pool has the environment of the process that made it
    launched = (
        os.environ.keys() >= LAUNCHED
        and multiprocessing.parent_process() is None
    )
    if launched and not dist.is_initialized():
        _join(device)
    if not dist.is_initialized():
        return Processes(0, 1)
    return Processes(dist.get_rank(), dist.get_world_size())


def _join(device: torch.device) -> None:
    """Meet the others that torchrun has started."""
    # only where torch has them
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://"))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(_attempt(store, rank, size), store),
        rank=rank,
        world_size=size,
    )
    atexit.register(_leave)


def _attempt(store: Any, rank: int, size: int) -> str:
    """A name for this attempt that all its processes know.

    torchrun keeps one store over its restarts, where the addresses of processes
    that are dead still stand. So the first process answers the others by
    numbers that they have drawn anew, until each has heard it.
    """
    me = uuid.uuid4().hex
    if rank > 0:
        store.set(f"metabook, {rank} is", me)
        attempt = str(store.get(f"metabook, {me} joins"), "ascii")
        store.set(f"{attempt} has {rank}", "")
        return attempt
    for other in range(1, size):
        while not store.check([f"{me} has {other}"]):
            there = str(store.get(f"metabook, {other} is"), "ascii")
            store.set(f"metabook, {there} joins", me)
            time.sleep(0.01)
    return me


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


class Processes:
    """Processes that share every batch of a training. One alone exchanges
    nothing.

    Parameters
    ----------
    rank : int
        Number of this process, from 0; the first one reads and writes the
        checkpoint, and validates.
    size : int
        How many there are.

    Examples
    --------
    >>> [Processes(rank, 3).share(8) for rank in range(3)]
    [(0, 2), (2, 3), (5, 3)]
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.first = rank == 0

    def share(self, tasks: int) -> tuple[int, int]:
        """Which of so many tasks are this process's own: the first of them, and
        how many.

        Raises
        ------
        ValueError
            If there are fewer tasks than processes.
        """
        if tasks < self.size:
            raise ValueError(
                f"{self.size} processes share a batch of {tasks} tasks, so that"
                " some have none: give each at least one, by a larger"
                f" tasks_per_batch or torchrun --nproc-per-node={tasks}"
            )
        first = self.rank * tasks // self.size
        return first, (self.rank + 1) * tasks // self.size - first

    def part(self, episodes: list[Episode]) -> list[Episode]:
        """This process's share of a batch."""
        if self.size == 1:
            return episodes
        first, count = self.share(sum(map(len, episodes)))
        own = slice(first, first + count)
        if len(episodes) == 1:
            return [episodes[0].part(own)]
        return episodes[own]

    @contextmanager
    def own_random(self, device: torch.device) -> Iterator[None]:
        """Inside, random numbers differ from process to process, as those of
        dropout should; afterwards all have the same state again.
        """
        if self.size == 1:
            yield
            return
        seed = int(torch.randint(2**62, ()))
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed + self.rank)
            yield

    def average(
        self,
        learner: Learner,
        loss: float,
        tasks: int,
        buffers: dict[str, Tensor],
    ) -> float:
        """Make gradients and loss those of all tasks, on every process.

        Buffers that move, such as running statistics, move by the mean of what
        they moved on each process; whole numbers are those of the first one.

        Parameters
        ----------
        learner : Learner
            With the mean gradient of its own tasks in ``.grad``.
        loss : float
            Their mean loss.
        tasks : int
            How many they are.
        buffers : dict of name to Tensor
            The learner's buffers before this iteration.

        Returns
        -------
        float
            The mean loss of all tasks.

        Raises
        ------
        RuntimeError
            If another process has ended.
        """
        if self.size == 1:
            return loss
        weights = [p for p in learner.parameters() if p.requires_grad]
        used = [p.grad is not None for p in weights]
        numbers = torch.tensor(
            [tasks, tasks * loss, *used],
            dtype=torch.float64,
            device=weights[0].device,
        )
        (numbers,) = self._sums([numbers])
        total, total_loss, *somewhere = numbers.tolist()
        weights = [p for p, n in zip(weights, somewhere, strict=True) if n]
        moving, whole = [], []
        for name, b in learner.named_buffers():
            if b.is_floating_point():
                moving.append((b, buffers[name]))
            else:
                whole.append(b)
        share = tasks / total
        with torch.no_grad():
            for p in weights:
                if p.grad is None:  # these tasks did not use it
                    p.grad = torch.zeros_like(p)
            sums = self._sums(
                [share * p.grad for p in weights if p.grad is not None]
                + [share * (after - before) for after, before in moving]
            )
            for p, gradient in zip(weights, sums[: len(weights)], strict=True):
                assert p.grad is not None
                p.grad.copy_(gradient)
            for (b, before), moved in zip(
                moving, sums[len(weights) :], strict=True
            ):
                b.copy_(before + moved)
            for b in whole:
                with self._exchange():
                    dist.broadcast(b, 0)
        return float(total_loss / total)

    def from_first(self, make: Callable[[], Made]) -> Made:
        """What ``make()`` returns on the first process; the others only get it.

        Raises
        ------
        RuntimeError
            On the others, if it raises anything on the first.
        """
        if self.size == 1:
            return make()
        message: list[Any] = [None, None]  # made, what went wrong
        if self.first:
            try:
                made = make()
            except Exception as error:
                self._tell([None, f"{type(error).__name__}: {error}"])
                raise
            data = io.BytesIO()
            torch.save(made, data)
            self._tell([data.getvalue(), None])
            return made
        self._tell(message)
        if message[1] is not None:
            raise RuntimeError(f"the first process has stopped: {message[1]}")
        # from a process of this run; and from its device to this one's
        other: Made = torch.load(
            io.BytesIO(message[0]), map_location="cpu", weights_only=False
        )
        return other

    def follow_first(self, run: TrainingState) -> None:
        """Give every process the first one's weights, optimiser, history and
        random state.
        """
        if self.size > 1:
            state = self.from_first(run.state_dict)
            if not self.first:
                run.load_state_dict(state)

    def _tell(self, message: list[Any]) -> None:
        with self._exchange():
            dist.broadcast_object_list(message, 0)

    def _sums(self, tensors: list[Tensor]) -> list[Tensor]:
        """The sum of each over the processes; those of one type travel
        together.
        """
        kinds = defaultdict(list)
        for i, t in enumerate(tensors):
            kinds[t.dtype, t.device].append(i)
        sums = list(tensors)
        for places in kinds.values():
            flat = torch.cat([tensors[i].flatten() for i in places])
            with self._exchange():
                dist.all_reduce(flat)
            sizes = [tensors[i].numel() for i in places]
            for i, part in zip(places, torch.split(flat, sizes), strict=True):
                sums[i] = part.view(tensors[i].shape)
        return sums

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"process {self.rank} of {self.size} could not exchange its"
                f" gradients with the others ({str(error).splitlines()[0]}). If"
                " one of them has ended, its own output says why. The same line"
                " again goes on from the checkpoint; torchrun --max-restarts=1"
                " does so by itself"
            ) from error
