# SPDX-License-Identifier: MIT
"""Time one outer iteration of MAML: metabook beside learn2learn, higher,
TorchOpt and a loop without a library.

    python benchmarks/speed/maml.py

Everything takes about half an hour on two idle cores. ``--work conv5`` measures
what begins with this name, anew, and ``--list`` names all. Same weights, same
tasks, same gradient: in float64, before anything is timed, everyone's outer
gradient is compared with metabook's. Every work runs in a process of its own;
the same line again goes on after the last finished one. The result goes to
metabook/book/results/speed_maml.json.
"""

import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import fairness
import parts
import peers_maml
import timing
import torch
from maml_implementations import IMPLEMENTATIONS
from maml_work import MEMORY, WORKS, Work
from torch.utils.flop_counter import FlopCounterMode

import metabook as mb

REFERENCE = "learn2learn"

Numbers = dict[str, Any]


def who_takes(work: Work) -> list[str]:
    return [name for name, i in IMPLEMENTATIONS.items() if i.takes(work)]


def measure(work: Work, names: Sequence[str]) -> Numbers:
    """Check everyone's gradient, then time those whose gradient is right."""
    torch.set_num_threads(work.threads)
    episode, few = work.episode(), replace(work, tasks=2).episode()
    expected = IMPLEMENTATIONS["metabook"].gradient(work, few)

    def get_ready(name: str) -> tuple[Numbers, timing.Step | None]:
        it = IMPLEMENTATIONS[name]
        error = fairness.relative_error(it.gradient(work, few), expected)
        return fairness.checked(
            error, it.tolerance, lambda: it.iteration(work, episode)
        )

    report, times = timing.compare(
        {name: partial(get_ready, name) for name in names},
        missing(),
        work.rounds,
        work.calls,
        work.name,
    )
    for name, entry in timing.summary(times, REFERENCE).items():
        report[name] |= entry
    return asdict(work) | {
        "inner_lr": work.inner_lr,
        "gflop": count_gflop(work, episode),
        "implementations": report,
    }


def missing() -> dict[str, dict[str, str]]:
    """The peers that could not be had, and why."""
    replies = peers_maml.found().items()
    return {name: reply for name, reply in replies if "error" in reply}


def count_gflop(work: Work, episode: mb.Episode) -> float:
    """Multiplications and additions of the convolutions and matrix products in
    one outer iteration.
    """
    # the counter sees only what its own thread does
    step = IMPLEMENTATIONS["naive loop"].iteration(work, episode)
    with FlopCounterMode(display=False) as counter:
        step()
    return timing.digits(counter.get_total_flops() / 1e9)


def measure_peak(side: int = 2048, rounds: int = 20) -> dict[str, float]:
    """What a product of two square matrices reaches in float32, at its best,
    in GFLOP/s by threads.
    """
    a, b, peak = torch.randn(side, side), torch.randn(side, side), {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        seconds = timing.time_in_turn(
            {"product": lambda: torch.mm(a, b)}, rounds, calls=1, name="peak"
        )["product"]
        peak[str(threads)] = timing.digits(2 * side**3 / seconds.min() / 1e9)
    return peak


def measure_memory(name: str, work: Work) -> Numbers:
    """Peak memory of three outer iterations, in MB: of the process, and beyond
    what it held before the first.
    """
    torch.set_num_threads(work.threads)
    if name in missing():
        return missing()[name]
    step = IMPLEMENTATIONS[name].iteration(work, work.episode())
    pages = int(Path("/proc/self/statm").read_text("utf8").split()[1])
    before = pages * resource.getpagesize() / 2**20
    for _ in range(3):
        step()
    # Linux counts in KB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"peak_mb": round(peak), "beyond_start_mb": round(peak - before)}


def all_parts(quick: bool) -> dict[str, parts.Part]:
    """What a full run measures, by name."""
    if quick:
        return quick_parts()
    found = {"peak": parts.Part(measure_peak)}
    for work in WORKS:
        found[work.name] = parts.Part(partial(measure, work, who_takes(work)))
    for name in who_takes(MEMORY):
        found[f"memory-{name}"] = parts.Part(
            partial(measure_memory, name, MEMORY)
        )
    return found


def quick_parts() -> dict[str, parts.Part]:
    """One work of each kind, with few tasks and classes; nothing compiled."""
    found = {"peak": parts.Part(partial(measure_peak, side=64, rounds=1))}
    conv = replace(MEMORY, tasks=2, way=2, rounds=1, threads=1)
    sinusoid = replace(WORKS[0], tasks=2, calls=1, rounds=1)
    for work, small in ((WORKS[0], sinusoid), (MEMORY, conv)):
        names = [name for name in who_takes(work) if "compiled" not in name]
        found[work.name] = parts.Part(partial(measure, small, names))
    for name in ("metabook", REFERENCE):
        found[f"memory-{name}"] = parts.Part(
            partial(measure_memory, name, conv)
        )
    return found


def merge(done: dict[str, Numbers]) -> Numbers:
    """One result from the parts: speed, shares of the machine's peak, and
    memory.
    """
    works = {
        name: found
        for name, found in done.items()
        if "implementations" in found
    }
    for work in works.values():
        peak = done["peak"][str(work["threads"])]
        for entry in work["implementations"].values():
            if "ms" in entry:
                reached = work["gflop"] / entry["ms"] * 1e3
                entry["share_of_sgemm"] = timing.digits(reached / peak)
    memory = {
        name.removeprefix("memory-"): found
        for name, found in done.items()
        if name.startswith("memory-")
    }
    of_reference = memory[REFERENCE].get("beyond_start_mb")
    for entry in memory.values():
        if of_reference and "beyond_start_mb" in entry:
            entry["of_reference"] = timing.digits(
                entry["beyond_start_mb"] / of_reference
            )
    return {
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
        "peers": peers_maml.found(),
        "sgemm_gflop_per_second": done["peak"],
        "works": works,
        "memory": {"work": MEMORY.name, "implementations": memory},
    }


if __name__ == "__main__":
    sys.exit(
        parts.run(
            __file__,
            __doc__,
            "speed_maml",
            all_parts,
            ["learner", "models", "optimization"],
            peers_maml.prepare,
            merge,
        )
    )
