# SPDX-License-Identifier: MIT
"""Time prototypical networks: training, evaluation and sampling beside easyfsl,
learn2learn and the authors' code.

    python benchmarks/speed/metric.py

Everything takes about a quarter of an hour on two idle cores. ``--work
training`` measures what begins with this name, anew, and ``--list`` names all.
Same weights, same images. Before anything is timed, gradients and predictions
are compared with metabook's. Every part runs in a process of its own; the same
line again goes on after the last finished one. The result goes to
metabook/book/results/speed_metric.json.
"""

import sys
from dataclasses import replace
from typing import Any

import parts
import peers_metric
from metric_episodes import Evaluation, Sampling
from metric_training import Training

# glibc gives large tensors back to the system and gets them anew, page by page,
# unless told otherwise
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}
ROOMS = [
    "data/images.py",
    "data/random.py",
    "learner",
    "metric",
    "models",
    "tasks",
    "training",
]

Numbers = dict[str, Any]


def all_parts(quick: bool) -> dict[str, parts.Part]:
    """What a full run measures, by name."""
    if quick:
        training = Training(1, way=6, rounds=1)
        evaluation = Evaluation(
            1, episodes=20, peer_episodes=2, classes=10, rounds=1
        )
        sampling = Sampling(episodes=32, classes=10, rounds=1)
        return {
            "sampling-1thread": parts.Part(sampling.measure),
            "training-1thread": parts.Part(training.measure),
            "evaluation-20-1thread": parts.Part(evaluation.measure),
        }
    found = {"sampling-1thread": parts.Part(Sampling().measure)}
    for n in (1, 2):
        found[f"training-{n}thread"] = parts.Part(Training(n).measure)
    for n in (1, 2):
        for episodes in (600, 10_000):
            found[f"evaluation-{episodes}-{n}thread"] = parts.Part(
                Evaluation(n, episodes).measure
            )
    for n in (1, 2):
        found[f"training-memory-kept-{n}thread"] = replace(
            found[f"training-{n}thread"], environment=KEEP_MEMORY
        )
    return found


def merge(done: Numbers) -> Numbers:
    """One result from the parts."""
    return {
        "what": (
            "Prototypical networks with four blocks of 64 channels on images"
            " of 28 x 28, all in turn in one process; default OpenMP settings."
            " ms: an episode. speedup: median over rounds of the reference's"
            " time over this one's in the same round; the reference is"
            " easyfsl, of sampling learn2learn. training: forward, backward"
            " and Adam (fused for metabook, as metabook.train makes it;"
            " torch's default for the others). gradient_error: relative to"
            " metabook's with the same distance, in float64 (half precision:"
            " in float32). memory-kept: the same with an allocator that keeps"
            f" large blocks, for everyone: {KEEP_MEMORY}. evaluation: metabook"
            " embeds the test set within the time; fewer episodes are timed"
            " where the time is in proportion to them. sampling: metabook"
            " converts pixels of 8 bits, the peers' data are floats from the"
            " start."
        ),
        "peers": peers_metric.found(),
        "works": done,
    }


if __name__ == "__main__":
    sys.exit(
        parts.run(
            __file__,
            __doc__,
            "speed_metric",
            all_parts,
            ROOMS,
            peers_metric.prepare,
            merge,
        )
    )
