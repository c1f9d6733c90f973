# SPDX-License-Identifier: MIT
"""What the inner loop holds in memory: of a graph, and of a whole program in a
process of its own, where other tests have left nothing behind.
"""

import subprocess
import sys
import weakref

import pytest
import torch
from conftest import small_conv

import metabook as mb


def graph_megabytes(learner, episode):
    """What autograd holds at most during backward, counted by its own hooks."""
    held, most = weakref.WeakSet(), 0

    class Box:
        def __init__(self, tensor):
            self.tensor = tensor

    def keep(tensor):
        nonlocal most
        box = Box(tensor)
        held.add(box)
        most = max(
            most, sum(b.tensor.numel() * b.tensor.element_size() for b in held)
        )
        return box

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda box: box.tensor):
        learner.backward(episode)
    return most / 1e6


@pytest.mark.parametrize(
    ("model", "tasks_held"),
    [(small_conv(out=5), 1), (mb.MLP(784, 5, hidden=(7,)), 32)],
)
def test_memory_of_backward_does_not_grow_with_the_number_of_tasks(
    model, tasks_held, tasks
):
    learner = mb.MAML(model, inner_lr=0.1, threads=1)
    few, many = (
        graph_megabytes(learner, tasks.sample(n))
        for n in (tasks_held, 2 * tasks_held)
    )
    assert many < 1.2 * few


def megabytes_between(program):
    """How much the peak of a program's memory grows from `first()` to
    `second()`, in MB.
    """
    if sys.platform != "linux":
        pytest.skip("other systems count their peak in other units")
    lines = [
        "import resource, torch",
        "import metabook as mb",
        "torch.set_num_threads(1)",
        program,
        "def peak():",
        "    usage = resource.getrusage(resource.RUSAGE_SELF)",
        "    return usage.ru_maxrss / 1024",
        "first()",
        "before = peak()",
        "second()",
        "print(peak() - before)",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    return float(done.stdout)


TRAINING = """
tasks = mb.FewShotTasks(mb.glyphs(classes=9), 5, 2, 3)
learner = mb.MAML(mb.MLP(784, 5, hidden=(64,)), inner_lr=0.1, inner_steps=3)
optimizer = torch.optim.Adam(learner.parameters())

def work(rounds):
    for i in range(rounds):
        optimizer.zero_grad()
        learner.backward(tasks.sample(8, start=8 * i))
        optimizer.step()
        with torch.no_grad():
            part = tasks.sample(4, start=i)
            learner(part.support_x, part.support_y, part.query_x)

def first():
    work(5)

def second():
    work(15)
"""


def test_memory_is_flat_over_iterations_of_training_and_of_evaluation():
    # one graph that stays behind an iteration would hold about 15 MB
    assert megabytes_between(TRAINING) < 20


def test_memory_of_an_inner_loop_without_a_graph_does_not_grow_with_its_steps():
    """Learned step sizes would chain every step to the one before; a path would
    keep all of them.
    """
    grown = megabytes_between("""
learner = mb.MetaSGD(mb.MLP(784, 5, hidden=(200,)), 1e-4)
part = mb.FewShotTasks(mb.glyphs(classes=9), 5, 1).sample(20)

def adapt(steps):
    with torch.no_grad():
        learner.adapt(part.support_x, part.support_y, steps=steps)

def first():
    adapt(3)

def second():
    adapt(30)
""")
    assert grown < 40  # the weights of 20 tasks are 13 MB
