# SPDX-License-Identifier: MIT
"""Hooks that users register keep firing, or are refused."""

import pytest
import torch
import torch.nn.functional as F
from gradients import assert_exact, curved_net, outer_gradient, task_batch

import metabook as mb


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    """Two tasks at once, and one core for each operation."""
    set_num_threads = torch.set_num_threads
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: set_num_threads(1))


class Recorder:
    """A hook with a memory: a copy of it would keep what it hears to itself."""

    def __init__(self):
        self.heard = 0

    def __call__(self, *args):
        self.heard += 1

    def listen(self, *args):
        self.heard += 1


OF_LAYERS = {
    "forward": lambda net, f: net[0].register_forward_hook(f),
    "before forward": lambda net, f: net[0].register_forward_pre_hook(f),
    "backward": lambda net, f: net[0].register_full_backward_hook(f),
    "before backward": lambda net, f: net[0].register_full_backward_pre_hook(f),
}
OF_WEIGHTS = {
    "tensor": lambda net, f: net[0].weight.register_hook(f),
    "accumulated": lambda net, f: net[
        0
    ].weight.register_post_accumulate_grad_hook(f),
}


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("where", OF_LAYERS | OF_WEIGHTS)
def test_a_hook_hears_every_task_whatever_the_threads(where, bound):
    counts, gradients = [], []
    for threads in (1, 2, None):
        torch.manual_seed(0)
        net, recorder = curved_net(), Recorder()
        (OF_LAYERS | OF_WEIGHTS)[where](
            net, recorder.listen if bound else recorder
        )
        learner = mb.MAML(net, 0.5, 2, vectorized=False, threads=threads)
        gradients.append(outer_gradient(learner, task_batch(tasks=3)))
        counts.append(recorder.heard)
    assert counts[0] >= 3, "each task"
    assert len(set(counts)) == 1
    torch.manual_seed(0)
    plain = outer_gradient(mb.MAML(curved_net(), 0.5, 2), task_batch(tasks=3))
    assert all(torch.allclose(g, plain, rtol=1e-9) for g in gradients)


def test_a_forward_hook_hears_each_pass_and_no_trial():
    net, recorder = curved_net(), Recorder()
    net[0].register_forward_hook(recorder)
    mb.MAML(net, 0.5, 2, threads=1).backward(task_batch(tasks=3))
    assert recorder.heard == 3 * (2 + 1)


@pytest.mark.parametrize("vectorized", [True, False, None])
def test_a_hook_that_changes_the_gradient_does_so_in_every_way(vectorized):
    net, episode = curved_net(), task_batch(tasks=3)
    learner = mb.MAML(net, 0.5, vectorized=vectorized)
    plain = outer_gradient(learner, episode).clone()
    net[2].bias.register_hook(lambda g: 3 * g)
    changed = outer_gradient(learner, episode)
    assert torch.allclose(changed[:-3], plain[:-3])
    assert torch.allclose(changed[-3:], 3 * plain[-3:])


@pytest.mark.parametrize("where", ["backward", "before backward"])
def test_what_cannot_be_heard_side_by_side_is_refused(where):
    net, episode = curved_net(), task_batch(tasks=3)
    learner = mb.MAML(net, 0.5, vectorized=True)
    handle = OF_LAYERS[where](net, Recorder())
    with pytest.raises(RuntimeError, match="0 has a backward hook"):
        learner.backward(episode)
    with pytest.raises(ValueError, match="hook.*use vectorized=False"):
        mb.MAML(net, 0.5, vectorized=True)
    mb.MAML(net, 0.5, vectorized=False).backward(episode)  # the way out
    handle.remove()
    learner.backward(episode)


@pytest.mark.parametrize("where", OF_LAYERS | OF_WEIGHTS)
def test_a_compiled_program_would_not_call_them(where):
    net, recorder = mb.MLP(1, 1, hidden=(3,)), Recorder()
    options = {"loss_fn": F.mse_loss, "inner_lr": 0.01}
    learner = mb.MAML(net, compiled=True, **options)
    (OF_LAYERS | OF_WEIGHTS)[where]([net[1]], recorder)
    waves = mb.Sinusoids().sample(2)
    with pytest.raises(ValueError, match=r"1.*has a hook"):
        learner.backward(waves)
    if where in ("backward", "before backward"):
        with pytest.raises(ValueError, match=r"hook.*use compiled=False"):
            mb.MAML(net, compiled=True, **options)
    mb.MAML(net, compiled=False, **options).backward(waves)  # the way out
    assert recorder.heard > 0


@pytest.mark.parametrize("make", [mb.Reptile, mb.ImplicitMAML])
@pytest.mark.parametrize("where", OF_WEIGHTS)
def test_gradients_that_are_not_autograds_do_not_go_through_hooks(make, where):
    net, episode = curved_net(), task_batch()
    handle = OF_WEIGHTS[where](net, Recorder())
    learner = make(net, 0.1, 2)
    with pytest.raises(ValueError, match=r"0\.weight has a hook.*Remove"):
        learner.backward(episode)
    handle.remove()  # the way out
    learner.backward(episode)
    net[0].weight.grad.mul_(0.5)


def test_the_gradient_is_right_with_hooks_on_layers():
    net = curved_net()
    for register in OF_LAYERS.values():
        register(net, Recorder())
    assert_exact(mb.MAML(net, 0.5, 2), task_batch())
