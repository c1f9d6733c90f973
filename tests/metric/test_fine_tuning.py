# SPDX-License-Identifier: MIT
"""Fine-tuning takes as many steps as it says, of the size and on the examples
that it says.
"""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import metabook as mb


@pytest.fixture
def steps_taken():
    """The step sizes of all optimisers of the program, step by step."""
    seen = []
    handle = register_optimizer_step_post_hook(
        lambda of, *_: seen.append(of.param_groups[0]["lr"])
    )
    yield seen
    handle.remove()


# how many optimisers two tasks have
LEARNERS = {
    "linear": (lambda **k: mb.FineTuning(nn.Flatten(), **k), 1),
    "cosine": (lambda **k: mb.FineTuning(nn.Flatten(), head="cosine", **k), 1),
    "all, at once": (lambda **k: mb.FullFineTuning(mb.MLP(784, 4), **k), 2),
    "all, in batches": (
        lambda **k: mb.FullFineTuning(mb.MLP(784, 4), batch=4, **k),
        2,
    ),
}


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("name", LEARNERS)
def test_so_many_steps_of_that_size_are_taken(
    tasks, steps_taken, name, steps, monkeypatch
):
    monkeypatch.setenv("METABOOK_PROBE", "0")  # which trains a copy
    make, optimizers = LEARNERS[name]
    episode = tasks.sample(2)
    learner = make(steps=steps, lr=0.03)
    learner(episode.support_x, episode.support_y, episode.query_x)
    assert steps_taken == [0.03] * (optimizers * steps)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_a_new_head_is_the_plain_loop(tasks, head, steps):
    episode = tasks.sample(3).to(torch.float64)
    learner = mb.FineTuning(
        nn.Flatten(), head=head, steps=steps, lr=0.03, scale=7.0
    )
    got = learner(episode.support_x, episode.support_y, episode.query_x)
    for t in range(3):
        x, y = episode.support_x[t].flatten(1), episode.support_y[t]
        w, b = torch.zeros(5, 784).double(), torch.zeros(5).double()
        if head == "cosine":
            w = torch.stack([x[y == c].mean(dim=0) for c in range(5)])
        w.requires_grad_(), b.requires_grad_()

        def scores(x, w=w, b=b):
            if head == "linear":
                return x @ w.T + b
            return 7.0 * F.cosine_similarity(x[:, None], w[None], dim=2)

        optimizer = torch.optim.Adam([w, b], lr=0.03)
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(scores(x), y).backward()
            optimizer.step()
        expected = scores(episode.query_x[t].flatten(1))
        assert torch.allclose(got[t], expected, atol=1e-10)


@pytest.mark.parametrize("batch", [3, 4, 10])
def test_batches_hold_every_example_once_a_pass(batch):
    """What is left of a pass and is no whole batch is left out of it."""
    seen = []

    class Notes(nn.Linear):
        def __deepcopy__(self, memo):
            other = Notes(1, 2)
            other.load_state_dict(copy.deepcopy(self.state_dict()))
            return other

        def forward(self, x):
            if self.training and torch.is_grad_enabled():
                seen.append(x.flatten().tolist())
            return super().forward(x)

    x = torch.arange(10.0)[None, :, None]
    y = torch.arange(10).remainder(2)[None]
    learner = mb.FullFineTuning(Notes(1, 2), steps=7, batch=batch)
    learner.adapt(x, y)
    assert [len(rows) for rows in seen] == [batch] * 7
    whole = 10 // batch
    for first in range(0, 7 - whole + 1, whole):
        rows = [*itertools.chain(*seen[first : first + whole])]
        assert len(set(rows)) == len(rows), "an example twice in a pass"
    if batch < 10:
        assert seen[0] != seen[whole], "another order in the next pass"
