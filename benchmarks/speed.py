# SPDX-License-Identifier: MIT
"""Time one outer iteration of MAML: metabook beside learn2learn, higher,
TorchOpt and a loop without a library.

    python benchmarks/speed.py                  # everything, about half an hour on two idle cores
    python benchmarks/speed.py --list
    python benchmarks/speed.py --work conv5     # what begins with this name, anew
    python benchmarks/speed.py --quick          # tiny, to try the command; keeps nothing

Same weights, same tasks, same gradient: in float64, before anything is timed,
everyone's outer gradient is compared with metabook's. Every work runs in a
process of its own and leaves a file in runs/speed; the same line again goes on
after the last finished one. When all are there, the result goes to
metabook/book/results/speed_maml.json.
"""

import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import peers
import timing
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import metabook as mb

REFERENCE = "learn2learn"


@dataclass(frozen=True)
class Work:
    """One outer iteration: 25 sine waves, or few-shot tasks on drawings of 28 x
    28, with Adam at its defaults.
    """

    # sinusoid: 10 points, 10 queries; conv: one drawing and 15 queries a class
    data: str
    tasks: int
    inner_steps: int
    first_order: bool
    threads: int
    way: int = 0  # classes of a task; none for sine waves
    calls: int = 1  # iterations in a row that are timed together
    rounds: int = 4

    @property
    def name(self) -> str:
        """What it is called on the command line and in the result."""
        order = "first" if self.first_order else "second"
        return f"{self.data}{self.way or ''}-{self.inner_steps}step-{order}-{self.threads}thread"

    @property
    def inner_lr(self) -> float:
        """The step sizes of the MAML paper."""
        return 0.4 if self.way else 0.01

    @property
    def loss_fn(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Cross-entropy for classes."""
        return F.cross_entropy if self.way else F.mse_loss

    def episode(self) -> mb.Episode:
        """The tasks, the same for everyone."""
        if not self.way:
            return mb.Sinusoids(shot=10, query=10, seed=0).sample(self.tasks)
        return mb.FewShotTasks(
            mb.glyphs(classes=100, seed=0), self.way, shot=1, query=15, seed=0
        ).sample(self.tasks)


STEPS_AND_ORDERS = [
    (steps, first_order) for first_order in (False, True) for steps in (1, 5)
]
WORKS = [
    *(
        Work("sinusoid", 25, steps, first_order, threads=1, calls=20, rounds=10)
        for steps, first_order in STEPS_AND_ORDERS
    ),
    *(
        Work("conv", 32, steps, first_order, threads, way=5)
        for threads in (1, 2)
        for steps, first_order in STEPS_AND_ORDERS
    ),
    Work("conv", 4, 5, False, threads=2, way=20),
]
MEMORY = Work("conv", 32, 1, False, threads=2, way=5)


def metabook(
    work: Work, model: nn.Module, episode: mb.Episode, **options: Any
) -> peers.Backward:
    """The public way: a learner, an episode."""
    learner = mb.MAML(
        model,
        work.inner_lr,
        work.inner_steps,
        work.first_order,
        work.loss_fn,
        **options,
    )
    return lambda: learner.backward(episode)


@dataclass(frozen=True)
class Implementation:
    """A way to get the outer gradient: ``make(work, model, episode)`` returns a
    function that adds it to ``.grad``.
    """

    make: Callable[[Work, nn.Module, mb.Episode], peers.Backward]
    # metabook's network, and Adam as `metabook.train` makes it; else the peers'
    # network, plain Adam
    ours: bool = False
    takes: Callable[[Work], bool] = lambda work: (
        True
    )  # the works that it can do, or is made for
    dtype: torch.dtype = (
        torch.float64
    )  # in which its outer gradient is compared
    tolerance: float = (
        1e-6  # of that gradient, relative to metabook's in float64
    )

    def model(self, work: Work) -> nn.Module:
        """The network with the same initial weights for everyone."""
        torch.manual_seed(0)
        ours = (
            mb.Conv4(out=work.way, norm="batch_stats")
            if work.way
            else mb.MLP(1, 1)
        )
        if self.ours:
            return ours
        return timing.with_weights_of(
            ours, peers.conv4(work.way) if work.way else peers.mlp()
        )

    def gradient(self, work: Work, episode: mb.Episode) -> dict[str, Tensor]:
        """The outer gradient, to be compared."""
        model = self.model(work).to(self.dtype)
        self.make(work, model, episode.to(self.dtype))()
        return timing.gradient_of(model)

    def iteration(self, work: Work, episode: mb.Episode) -> Callable[[], None]:
        """One outer iteration: what is timed."""
        model = self.model(work)
        backward, optimizer = (
            self.make(work, model, episode),
            torch.optim.Adam(model.parameters(), fused=self.ours),
        )

        def step() -> None:
            optimizer.zero_grad()
            backward()
            optimizer.step()

        return step


IMPLEMENTATIONS = {
    "metabook": Implementation(metabook, ours=True),
    "metabook, compiled": Implementation(
        partial(metabook, compiled=True),
        ours=True,
        takes=lambda work: work.data == "sinusoid",
    ),
    "metabook, bfloat16 queries": Implementation(
        partial(metabook, query_dtype=torch.bfloat16),
        ours=True,
        takes=lambda work: (
            work.way == 5 and work.threads == 2 and not work.first_order
        ),
        dtype=torch.float32,
        tolerance=0.2,
    ),
    "metabook, one task at a time": Implementation(
        partial(metabook, threads=1),
        ours=True,
        takes=lambda work: (
            work == replace(MEMORY, tasks=work.tasks, rounds=work.rounds)
        ),
    ),
    "learn2learn": Implementation(peers.learn2learn),
    "higher": Implementation(
        peers.higher, takes=lambda work: not work.first_order
    ),
    "TorchOpt": Implementation(
        peers.torchopt, takes=lambda work: not work.first_order
    ),
    "naive loop": Implementation(peers.naive_loop),
}


def measure(work: Work) -> dict[str, Any]:
    """Check everyone's gradient, then time those whose gradient is right."""
    torch.set_num_threads(work.threads)
    episode, few = work.episode(), replace(work, tasks=2).episode()
    missing = {
        name: found
        for name, found in peers.available().items()
        if "error" in found
    }
    expected = IMPLEMENTATIONS["metabook"].gradient(work, few)
    report: dict[str, dict[str, Any]] = {}
    steps: dict[str, Callable[[], None]] = {}
    for name, implementation in IMPLEMENTATIONS.items():
        if not implementation.takes(work):
            continue
        report[name] = missing.get(name, {})
        if report[name]:
            continue
        try:
            error = timing.relative_error(
                implementation.gradient(work, few), expected
            )
            report[name] = {"gradient_error": float(f"{error:.2g}")}
            if error <= implementation.tolerance:
                steps[name] = implementation.iteration(work, episode)
            else:
                report[name]["error"] = "its gradient is another one: not timed"
        except Exception as failure:  # the others go on
            report[name] = {"error": peers.reason(failure)}

    times = timing.time_in_turn(steps, work.rounds, work.calls, work.name)
    for name, entry in timing.summary(times, REFERENCE).items():
        report[name] |= entry
    settings = asdict(work) | {
        "inner_lr": work.inner_lr,
        "gflop": count_gflop(work, episode),
    }
    return settings | {"implementations": report}


def count_gflop(work: Work, episode: mb.Episode) -> float:
    """Multiplications and additions of the convolutions and matrix products in
    one outer iteration.
    """
    step = IMPLEMENTATIONS["naive loop"].iteration(
        work, episode
    )  # the counter sees only what its own thread does
    with FlopCounterMode(display=False) as counter:
        step()
    return timing.digits(counter.get_total_flops() / 1e9)


def measure_peak() -> dict[str, float]:
    """What a product of two matrices of 2048 x 2048 reaches in float32, best of
    twenty, in GFLOP/s by threads.
    """
    a, b, peak = torch.randn(2048, 2048), torch.randn(2048, 2048), {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        seconds = timing.time_in_turn(
            {"product": lambda: torch.mm(a, b)}, rounds=20, calls=1, name="peak"
        )["product"]
        peak[str(threads)] = timing.digits(2 * 2048**3 / seconds.min() / 1e9)
    return peak


def measure_memory(name: str, work: Work) -> dict[str, Any]:
    """Peak memory of three outer iterations, in MB: of the process, and beyond
    what it held before the first.
    """
    torch.set_num_threads(work.threads)
    found = peers.available().get(name, {})
    if "error" in found:
        return found
    step = IMPLEMENTATIONS[name].iteration(work, work.episode())
    before = (
        int(Path("/proc/self/statm").read_text("utf8").split()[1])
        * resource.getpagesize()
        / 2**20
    )
    for _ in range(3):
        step()
    peak = (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    )  # Linux counts in KB
    return {"peak_mb": round(peak), "beyond_start_mb": round(peak - before)}


def all_parts(quick: bool) -> dict[str, timing.Part]:
    """What a full run measures, by name; every part has a process of its own."""
    parts = {"peak": timing.Part(measure_peak)}
    for work in WORKS:
        parts[work.name] = timing.Part(
            partial(
                measure, replace(work, tasks=2, rounds=2) if quick else work
            )
        )
    for name in (
        name
        for name, implementation in IMPLEMENTATIONS.items()
        if implementation.takes(MEMORY)
    ):
        parts[f"memory-{name}"] = timing.Part(
            partial(
                measure_memory,
                name,
                replace(MEMORY, tasks=2) if quick else MEMORY,
            )
        )
    return parts


def merge(done: dict[str, Any]) -> dict[str, Any]:
    """One result from the parts: speed, shares of the machine's peak, and
    memory.
    """
    for work in WORKS:
        for entry in done[work.name]["implementations"].values():
            if "ms" in entry:
                reached = done[work.name]["gflop"] / entry["ms"] * 1e3
                entry["share_of_sgemm"] = timing.digits(
                    reached / done["peak"][str(work.threads)]
                )
    memory = {
        name.removeprefix("memory-"): found
        for name, found in done.items()
        if name.startswith("memory-")
    }
    for entry in memory.values():
        if (
            "beyond_start_mb" in entry
            and "beyond_start_mb" in memory[REFERENCE]
        ):
            entry["of_reference"] = timing.digits(
                entry["beyond_start_mb"] / memory[REFERENCE]["beyond_start_mb"]
            )
    return {
        "command": "python benchmarks/speed.py",
        "what": (
            "One outer iteration of MAML with Adam, all in turn in one"
            " process; default OpenMP settings. speedup: median over rounds of"
            f" {REFERENCE}'s time over this one's in the same round."
            " gradient_error: of the outer gradient in float64 on two tasks"
            " (with bfloat16 queries: in float32), relative to metabook's."
            " metabook's Adam is the fused one that metabook.train makes, the"
            " others have torch's default, as their examples. share_of_sgemm:"
            " arithmetic of the plain loop, counted, over time, as a part of"
            " what a matrix product of 2048 reaches. higher and TorchOpt know"
            " the second order only."
        ),
        "peers": peers.available(),
        "sgemm_gflop_per_second": done["peak"],
        "works": {work.name: done[work.name] for work in WORKS},
        "memory": {"work": MEMORY.name, "implementations": memory},
    }


def main() -> int:
    package = Path(mb.__file__).parent
    ours = [
        package / "learner.py",
        package / "models.py",
        *sorted(package.glob("optimization/*.py")),
    ]
    of = timing.fingerprint([Path(__file__), Path(peers.__file__), *ours])
    return timing.run(
        __file__,
        __doc__,
        all_parts,
        of,
        peers.prepare,
        merge,
        "speed",
        "speed_maml",
    )


if __name__ == "__main__":
    sys.exit(main())
