# SPDX-License-Identifier: MIT
"""What holds for every learner (`metabook.testing` says what). A new method joins by one line in LEARNERS."""

import copy

import pytest
import torch
from conftest import small_conv
from torch import nn

import metabook as mb
from metabook.testing import check_learner


class Recurrent(nn.Module):
    """Reads an image line by line."""

    def __init__(self, out):
        super().__init__()
        self.lstm, self.head = nn.LSTM(28, 6, batch_first=True), nn.Linear(6, out)

    def forward(self, x):
        return self.head(self.lstm(x[:, 0])[0][:, -1])


class Attentive(nn.Module):
    """Attends from line to line."""

    def __init__(self, out):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(28, 2, batch_first=True), nn.Linear(28, out)

    def forward(self, x):
        lines = x[:, 0]
        return self.head(self.attention(lines, lines, lines, need_weights=False)[0].mean(dim=1))


LEARNERS = {
    "protonet": lambda: mb.ProtoNet(small_conv(norm="batch")),
    "protonet, batch statistics": lambda: mb.ProtoNet(small_conv()),
    "maml": lambda: mb.MAML(small_conv(out=5), inner_lr=0.1),
    "maml, strided": lambda: mb.MAML(small_conv(out=5, strided=True), inner_lr=0.1, inner_steps=2),
    "maml, group norm": lambda: mb.MAML(small_conv(out=5, norm="group"), inner_lr=0.1),
    "maml, dropout": lambda: mb.MAML(nn.Sequential(mb.MLP(784, 8), nn.Dropout(0.3), nn.Linear(8, 5)), inner_lr=0.1),
    "maml, LSTM": lambda: mb.MAML(Recurrent(5), inner_lr=0.1),
    "maml, attention": lambda: mb.MAML(Attentive(5), inner_lr=0.1),
    "protonet, euclidean": lambda: mb.ProtoNet(small_conv(norm="batch"), distance="euclidean"),
    "protonet, cosine": lambda: mb.ProtoNet(
        small_conv(norm="batch"), distance="cosine", temperature=0.1, learn_temperature=True
    ),
    "protonet, half precision in training": lambda: mb.ProtoNet(
        small_conv(norm="batch"), embedding_dtype=torch.bfloat16
    ),
    "matching": lambda: mb.MatchingNet(small_conv(norm="batch")),
    "relation": lambda: mb.RelationNet(small_conv(norm="batch"), features=4, width=8),
    "protonet, LSTM": lambda: mb.ProtoNet(Recurrent(6)),
    "maml, vectorized": lambda: mb.MAML(small_conv(out=5), inner_lr=0.1, vectorized=True),
    "maml, perceptron": lambda: mb.MAML(mb.MLP(784, 5, hidden=(6,)), inner_lr=0.1, inner_steps=2),
    "maml, support statistics": lambda: mb.MAML(small_conv(out=5, norm="support"), inner_lr=0.1),
    "maml, support statistics, vectorized": lambda: mb.MAML(
        small_conv(out=5, norm="support"), inner_lr=0.1, vectorized=True
    ),
    "maml++": lambda: mb.MAMLPlusPlus(small_conv(out=5), inner_steps=2, multi_step_until=10, first_order_until=5),
    "implicit maml": lambda: mb.ImplicitMAML(small_conv(out=5), inner_lr=0.1, inner_steps=3),
    "joint training": lambda: mb.JointTraining(small_conv(out=5), inner_lr=0.1),
    "anil": lambda: mb.ANIL(small_conv(out=5), inner_lr=0.1),
    "meta-sgd": lambda: mb.MetaSGD(small_conv(out=5), inner_lr=0.1),
    "reptile": lambda: mb.Reptile(small_conv(out=5), inner_lr=0.1, inner_steps=3),
    "maml, first order": lambda: mb.MAML(small_conv(out=5, norm="none"), inner_lr=0.1, first_order=True),
}


# nothing of these is meta-learned
BASELINES = {
    "nearest neighbour": lambda: mb.NearestNeighbour(),
    "nearest centroid": lambda: mb.NearestCentroid(small_conv(norm="batch"), center=torch.ones(4)),
    "fine-tuning, linear": lambda: mb.FineTuning(small_conv(norm="batch"), steps=5),
    "fine-tuning, cosine": lambda: mb.FineTuning(small_conv(norm="batch"), head="cosine", steps=5),
    "full fine-tuning": lambda: mb.FullFineTuning(small_conv(norm="batch"), steps=3),
}


@pytest.fixture(params=LEARNERS | BASELINES)
def learner(request):
    torch.manual_seed(0)
    return (LEARNERS | BASELINES)[request.param]().double().eval()


@pytest.fixture
def episode(tasks):
    return tasks.sample(3).to(torch.float64)


def answer(learner, episode, **changes):
    parts = {"support_x": episode.support_x, "support_y": episode.support_y, "query_x": episode.query_x} | changes
    with torch.no_grad():
        return learner(**parts)


def test_a_learner_keeps_the_contract(learner, episode):
    check_learner(learner, episode)


def test_an_evaluation_leaves_the_modes_and_the_random_state(learner, tasks):
    next(learner.children()).train()  # a mixture of modes, to be found again
    state, modes = copy.deepcopy(learner.state_dict()), [m.training for m in learner.modules()]
    rng = torch.get_rng_state()
    mb.evaluate(learner, _Double(tasks), episodes=4)
    assert [m.training for m in learner.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(state.values(), learner.state_dict().values(), strict=True))
    assert torch.equal(rng, torch.get_rng_state())


class _Double:
    def __init__(self, tasks):
        self.tasks = tasks

    def sample(self, tasks, start=0):
        return self.tasks.sample(tasks, start).to(torch.float64)


@pytest.mark.parametrize("name", LEARNERS)
def test_backward_reaches_every_parameter(name, episode):
    torch.manual_seed(0)
    learner = LEARNERS[name]().double()
    learner.train().backward(episode)
    for name, p in learner.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().max() > 0 or "attention.in_proj_bias" in name, name


def test_a_query_label_that_the_support_set_lacks_is_named(learner, episode):
    wrong = episode.query_y.clone()
    wrong[1, 4] = 9
    with pytest.raises(ValueError, match="query 4 of task 1 has label 9, which is not in its support set"):
        learner.loss(mb.Episode(episode.support_x, episode.support_y, episode.query_x, wrong))


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("support_x", lambda x: x[:, 1:], "must begin with the same"),
        ("query_x", lambda x: x[1:], "only the second size"),
        ("query_x", lambda x: x[..., 1:], "only the second size"),
        ("support_x", lambda x: x[0], "must begin with the same|support_x\\[None\\]"),
        ("support_y", lambda y: y[0], "For a single task add the first one"),
        ("support_x", lambda x: (255 * x).to(torch.uint8), "divided by 255"),
        ("support_y", lambda y: y % 2 == 0, "class labels are integers"),
        ("query_x", lambda x: x.float(), "query_x is torch.float32 but the weights are torch.float64"),
        ("support_x", lambda x: x.numpy(), r"support_x is a ndarray; learners take tensors"),
    ],
)
def test_parts_that_do_not_fit_are_named_before_torch_fails(learner, episode, part, change, message):
    with pytest.raises(ValueError, match=message):
        answer(learner, episode, **{part: change(getattr(episode, part))})


def test_a_checkpoint_restores_the_answers(learner, episode, tmp_path):
    torch.save(learner.state_dict(), tmp_path / "w.pt")
    expected = answer(learner, episode)
    for p in learner.parameters():
        p.data.add_(1.0)
    learner.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=True))
    assert torch.equal(answer(learner, episode), expected)
