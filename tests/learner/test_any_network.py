# SPDX-License-Identifier: MIT
"""Networks and losses that people bring: taken as they are, or refused with a
way out that works.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import small_conv
from gradients import assert_exact
from torch import nn

import metabook as mb


def pretrained():
    """A body with batch norm that has seen images, and a new head."""
    torch.manual_seed(1)
    body = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()
    )
    body(torch.rand(20, 1, 28, 28))
    return nn.Sequential(body, nn.Linear(196, 5))


def freeze(net):
    net[0][1].eval().requires_grad_(False)
    return net


@pytest.mark.parametrize("vectorized", [False, True])
def test_frozen_batch_norm_is_taken_and_stays_frozen(vectorized, tasks):
    net = freeze(pretrained())
    before = {n: b.clone() for n, b in net.named_buffers()}
    learner = mb.MAML(net, 0.1, 2, vectorized=vectorized)
    assert not learner.transductive
    mb.train(learner, tasks, 3, 2, progress=False)
    for name, b in net.named_buffers():
        assert torch.equal(b, before[name]), name
    learner.train()
    assert not net[0][1].training
    e = tasks.sample(1)
    whole = learner(e.support_x, e.support_y, e.query_x)
    alone = learner(e.support_x, e.support_y, e.query_x[:, :1])
    assert torch.allclose(whole[:, :1], alone, atol=1e-5)


def test_frozen_statistics_are_what_both_ways_normalise_with(tasks):
    net = freeze(pretrained().double())
    episode = tasks.sample(3).to(torch.float64)
    gradients = []
    for vectorized in (True, False):
        learner = mb.MAML(copy.deepcopy(net), 0.1, vectorized=vectorized)
        learner.backward(episode)
        learned = [p for p in learner.parameters() if p.requires_grad]
        gradients.append(torch.cat([p.grad.flatten() for p in learned]))
    assert torch.allclose(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("way_out", ["freeze", "replace"])
def test_batch_norm_that_moves_is_refused_and_the_ways_out_work(way_out, tasks):
    net = pretrained()
    with pytest.raises(ValueError, match="replace_all_batch_norm_modules_"):
        mb.MAML(net)
    if way_out == "freeze":
        net[0][1].eval().requires_grad_(False)
    else:
        torch.func.replace_all_batch_norm_modules_(net)
    assert mb.MAML(net, 0.1).backward(tasks.sample(2)) > 0


def test_evaluation_mode_alone_does_not_freeze():
    with pytest.raises(ValueError, match="running statistics"):
        mb.MAML(pretrained().eval())


class Tokens(nn.Module):
    """Reads integers."""

    def __init__(self, out):
        super().__init__()
        self.table, self.head = nn.Embedding(11, 6), nn.Linear(6, out)

    def forward(self, x):
        return self.head(self.table(x).mean(dim=1))


class Dictionary(nn.Module):
    """Returns a dict, as models of language do."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return {"logits": self.net(x), "hidden": x}


class Tuple(Dictionary):
    """Returns a tuple, as recurrent layers do."""

    def forward(self, x):
        return self.net(x), x


class Wrapped(nn.Module):
    """The way out that the error names."""

    def __init__(self, net, key):
        super().__init__()
        self.net, self.key = net, key

    def forward(self, x):
        return self.net(x)[self.key]


@pytest.mark.parametrize(
    "make",
    [
        lambda net: mb.MAML(net, 0.1, vectorized=False),
        lambda net: mb.MAML(net, 0.1, vectorized=True),
        mb.ProtoNet,
        mb.FullFineTuning,
    ],
)
@pytest.mark.parametrize(("odd", "key"), [(Dictionary, "logits"), (Tuple, 0)])
def test_a_network_that_returns_more_than_a_tensor(make, odd, key, tasks):
    net, e = odd(mb.MLP(784, 5, hidden=(8,))), tasks.sample(2)
    parts = e.support_x, e.support_y, e.query_x
    with pytest.raises(TypeError, match=rf"self.net\(x\)\[{key!r}\]"):
        make(net)(*parts)
    assert make(Wrapped(net, key))(*parts).shape == (2, 15, 5)


def gaussian(predictions, targets):
    mean, log_var = predictions.unbind(dim=-1)
    return F.gaussian_nll_loss(mean, targets[..., 0], log_var.exp())


def quantiles(predictions, targets):
    q = torch.tensor([0.1, 0.5, 0.9], dtype=predictions.dtype)
    error = targets - predictions  # (N, 3)
    return torch.maximum(q * error, (q - 1) * error).mean()


@pytest.mark.parametrize(
    ("outputs", "loss_fn"), [(2, gaussian), (3, quantiles)]
)
def test_several_outputs_for_a_target(outputs, loss_fn):
    net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, outputs))
    learner = mb.MAML(net.double(), 0.01, loss_fn=loss_fn)
    episode = mb.Sinusoids(shot=4, query=3).sample(2).to(torch.float64)
    assert_exact(learner, episode, atol=1e-8)
    predictor = learner.adapt(episode.support_x, episode.support_y)
    assert predictor.predict(episode.query_x).shape == (2, 3, outputs)


def test_segmentation_masks():
    """A label for each pixel."""
    net = nn.Conv2d(1, 3, 3, padding=1)
    x, q = torch.rand(2, 4, 1, 6, 6), torch.rand(2, 5, 1, 6, 6)
    y, qy = torch.randint(3, (2, 4, 6, 6)), torch.randint(3, (2, 5, 6, 6))
    episode = mb.Episode(x, y, q, qy)
    learner = mb.MAML(net, 0.1, vectorized=False)
    expected = torch.stack(
        [
            F.cross_entropy(p, t)
            for p, t in zip(learner(x, y, q), qy, strict=True)
        ]
    ).mean()
    assert learner.backward(episode) == pytest.approx(expected.item(), rel=1e-5)
    assert learner.adapt(x, y).predict(q).shape == (2, 5, 3, 6, 6)


def test_several_labels_for_an_example():
    y = (torch.rand(2, 6, 3) > 0.5).float()
    episode = mb.Episode(torch.rand(2, 6, 4), y, torch.rand(2, 6, 4), y)
    loss_fn = F.binary_cross_entropy_with_logits
    learner = mb.MAML(nn.Linear(4, 3), 0.1, loss_fn=loss_fn)
    assert learner.backward(episode) > 0


def yes_or_no(predictions, columns):
    return F.binary_cross_entropy_with_logits(
        predictions[:, 0], columns.to(predictions.dtype)
    )


def test_one_score_for_two_classes(images):
    tasks = mb.FewShotTasks(images, way=2, shot=3, query=4, seed=0)
    net = mb.MLP(784, 1, hidden=(16,))
    learner = mb.MAML(net, 0.1, 5, loss_fn=yes_or_no)
    mb.train(learner, tasks, 30, 4, lr=0.01, progress=False)
    e = tasks.sample(20)
    predictor = learner.adapt(e.support_x, 5 + 2 * e.support_y)
    labels = predictor.predict(e.query_x)
    assert set(labels.flatten().tolist()) == {5, 7}
    assert (labels == 5 + 2 * e.query_y).float().mean() > 0.6
    with pytest.raises(ValueError, match="1 outputs but the tasks have 2"):
        mb.MAML(net).backward(e)


def test_soft_labels():
    y = torch.rand(2, 6, 3).softmax(dim=-1)
    episode = mb.Episode(torch.rand(2, 6, 4), y, torch.rand(2, 6, 4), y)
    for loss_fn in (F.cross_entropy, nn.CrossEntropyLoss(label_smoothing=0.1)):
        learner = mb.MAML(nn.Linear(4, 3), 0.1, loss_fn=loss_fn)
        assert learner.backward(episode) > 0
    wrong = mb.Episode(episode.support_x, 2 * y, episode.query_x, 2 * y)
    with pytest.raises(ValueError, match="no probabilities"):
        mb.MAML(nn.Linear(4, 3), 0.1).backward(wrong)


@pytest.mark.parametrize(
    "loss_fn",
    [
        F.mse_loss,
        F.l1_loss,
        F.smooth_l1_loss,
        F.huber_loss,
        nn.MSELoss(),
        nn.L1Loss(),
        nn.SmoothL1Loss(),
        nn.HuberLoss(),
    ],
)
def test_a_loss_of_differences_refuses_labels_and_broadcasting(loss_fn, tasks):
    with pytest.raises(ValueError, match="of class labels"):
        mb.MAML(small_conv(out=5), loss_fn=loss_fn).backward(tasks.sample(1))
    waves = mb.Sinusoids().sample(2)
    flat = mb.Episode(
        waves.support_x,
        waves.support_y[..., 0],
        waves.query_x,
        waves.query_y[..., 0],
    )
    with pytest.raises(ValueError, match=r"y\[\.\.\., None\]"):
        mb.MAML(mb.MLP(1, 1), loss_fn=loss_fn).backward(flat)
    mb.MAML(mb.MLP(1, 1), loss_fn=loss_fn).backward(waves)  # the way out


def test_a_loss_of_ones_own_does_not_broadcast_either():
    waves = mb.Sinusoids().sample(2)
    flat = mb.Episode(
        waves.support_x,
        waves.support_y[..., 0],
        waves.query_x,
        waves.query_y[..., 0],
    )
    learner = mb.MAML(
        mb.MLP(1, 1), loss_fn=lambda p, y: (p - y).square().mean()
    )
    with pytest.raises(ValueError, match="give both the same shape"):
        learner.backward(flat)
