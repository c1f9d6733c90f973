# SPDX-License-Identifier: MIT
"""Transductive or not is found by trying, and a trial leaves no trace."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import small_conv
from torch import nn

import metabook as mb
from metabook.learner import probes
from metabook.models.norms import SupportNorm
from metabook.testing import check_learner


class Functional(nn.Module):
    """Batch norm that is no layer."""

    def forward(self, x):
        return F.batch_norm(x, None, None, training=True)


class MinusMean(nn.Module):
    def forward(self, x):
        return x - x.mean(dim=0)


class AcrossTheBatch(nn.Module):
    """Attention that takes the batch for the sequence."""

    def __init__(self, width):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 1)

    def forward(self, x):
        return self.attention(x[:, None], x[:, None], x[:, None])[0][:, 0]


class Noise(nn.Module):
    """Random in evaluation too, as Monte Carlo dropout."""

    def forward(self, x):
        return F.dropout(x, 0.5, training=True)


class Frozen(nn.Module):
    """A FrozenBatchNorm: statistics in buffers, and nothing that is learned."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("mean", torch.rand(width))

    def forward(self, x):
        return x - self.mean


def scaled_by_zero():
    norm = nn.BatchNorm1d(4, track_running_stats=False)
    nn.init.zeros_(norm.weight)
    return norm


def frozen_batch_norm():
    norm = nn.BatchNorm1d(4).requires_grad_(False)
    norm(torch.rand(9, 4))
    return norm.eval()


def still():
    """Batch norm that was told to use what it does not have."""
    norm = nn.BatchNorm1d(4, affine=False, track_running_stats=False)
    norm.forward = lambda x: F.layer_norm(x, (4,))
    return norm


LAYERS = {  # what depends on the batch; in MAML's family, in others
    "functional": (Functional, True, True),
    "minus the mean": (MinusMean, True, True),
    "batch statistics": (
        lambda: nn.BatchNorm1d(4, track_running_stats=False),
        True,
        True,
    ),
    "scale of zero": (scaled_by_zero, True, True),
    "attention": (lambda: AcrossTheBatch(4), True, True),
    "support norm": (lambda: SupportNorm(4), False, True),
    "frozen batch norm": (frozen_batch_norm, False, False),
    "frozen by hand": (lambda: Frozen(4), False, False),
    "never asked": (still, False, False),
    "layer norm": (lambda: nn.LayerNorm(4), False, False),
    "group norm": (lambda: nn.GroupNorm(2, 4), False, False),
    "instance norm": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 4)), nn.InstanceNorm1d(1), nn.Flatten()
        ),
        False,
        False,
    ),
    "dropout": (lambda: nn.Dropout(0.5), False, False),
    "noise": (Noise, False, False),
    "none": (nn.Identity, False, False),
}


def network(layer, out=5):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(784, 4))
    head = nn.Sequential(nn.Tanh(), nn.Linear(4, out))
    return nn.Sequential(body, LAYERS[layer][0](), head)


@pytest.fixture
def parts(tasks):
    e = tasks.sample(2)
    return e.support_x, e.support_y, e.query_x


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_what_depends_on_the_batch_is_found_by_trying(layer, mode, parts):
    _, in_maml, in_others = LAYERS[layer]
    training = mode == "training"
    maml = mb.MAML(network(layer), 0.1, vectorized=False).train(training)
    maml(*parts)
    assert maml.transductive == in_maml
    protonet = mb.ProtoNet(network(layer)).train(training)
    protonet(*parts)
    assert protonet.transductive == in_others


@pytest.mark.parametrize(
    "look",
    [
        lambda learner, e: learner(e.support_x, e.support_y, e.query_x),
        lambda learner, e: learner(
            support_x=e.support_x, support_y=e.support_y, query_x=e.query_x
        ),
        lambda learner, e: learner.adapt(e.support_x, e.support_y),
        lambda learner, e: learner.loss(e),
        lambda learner, e: learner.backward(e),
    ],
)
@pytest.mark.parametrize("make", [mb.MAML, mb.ProtoNet])
def test_any_look_at_a_task_is_enough(make, look, tasks):
    learner = make(network("functional"))
    assert not learner.transductive, "by its layers, as long as it saw nothing"
    look(learner, tasks.sample(1))
    assert learner.transductive


def test_each_step_too(parts):
    learner = mb.MAML(network("functional"), 0.1)
    learner.forward_each_step(*parts)
    assert learner.transductive


def test_a_head_of_zeros_hides_nothing(parts):
    net = network("functional")
    for p in net[2].parameters():
        nn.init.zeros_(p)
    for learner in (mb.MAML(net, 0.0), mb.ProtoNet(net)):
        learner.eval()(*parts)
        assert learner.transductive


@pytest.mark.parametrize("layer", ["functional", "minus the mean"])
def test_embeddings_keep_tasks_apart_in_evaluation(layer, tasks):
    """A network that looks at its batch is given one task at a time."""
    learner = mb.ProtoNet(network(layer)).eval()
    check_learner(learner, tasks.sample(3))
    with pytest.raises(ValueError, match="transductive"):
        mb.evaluate_embedded(learner, tasks.images, episodes=4)


def test_the_word_is_printed_with_the_score(tasks):
    learner = mb.MAML(network("functional"), 0.1)
    assert "transductive" in str(mb.evaluate(learner, tasks, episodes=4))
    learner = mb.MAML(network("frozen by hand"), 0.1)
    assert "inductive" in str(mb.evaluate(learner, tasks, episodes=4))


def test_a_single_query_is_warned_of(parts):
    x, y, query_x = parts
    with pytest.warns(UserWarning, match="transductive"):
        mb.MAML(network("minus the mean"), 0.1).adapt(x, y)(query_x[:, :1])


class Centred(mb.Learner):
    """A learner of one's own that looks at the other queries."""

    def __init__(self, centre):
        super().__init__()
        self.centre = centre

    def forward(self, support_x, support_y, query_x):
        means = mb.compute_prototypes(support_x.flatten(2), support_y)
        queries = query_x.flatten(2)
        if self.centre:
            queries = queries - queries.mean(dim=1, keepdim=True)
        return -torch.cdist(queries, means)


@pytest.mark.parametrize("centre", [True, False])
def test_a_learner_of_ones_own_is_tried_as_well(centre, parts):
    learner = Centred(centre)
    learner(*parts)
    assert learner.transductive is centre


def test_it_is_tried_once_and_again_when_the_network_is_another(
    parts, monkeypatch
):
    tried, twin = [], probes.twin
    monkeypatch.setattr(
        probes, "twin", lambda m: tried.append(twin(m)) or tried[-1]
    )
    learner = mb.ProtoNet(network("none")).eval()
    for _ in range(3):
        learner(*parts)
        assert not learner.transductive
    assert len(tried) == 1
    assert not copy.deepcopy(learner).transductive
    assert len(tried) == 1, "a copy knows it"
    learner.embedding[1] = Functional()
    assert learner.transductive
    assert len(tried) == 2
    x, y, query_x = parts
    learner.embedding.insert(0, nn.Upsample(28))
    learner(x[..., :14, :14], y, query_x[..., :14, :14])
    assert learner.transductive
    assert len(tried) == 3, "examples of another shape"


def test_nothing_is_tried_where_that_is_switched_off(parts, monkeypatch):
    monkeypatch.setenv("METABOOK_PROBE", "0")
    monkeypatch.setattr(probes, "twin", pytest.fail)
    learner = mb.MAML(network("functional"), 0.1)
    learner(*parts)
    assert not learner.transductive
    learner = mb.MAML(network("batch statistics"), 0.1)
    learner(*parts)
    assert learner.transductive


class NotCopied(Functional):
    def __deepcopy__(self, memo):
        raise RuntimeError("no copies")


def test_what_cannot_be_tried_is_judged_by_its_layers(parts):
    net = nn.Sequential(network("batch statistics"), NotCopied())
    learner = mb.ProtoNet(net).eval()
    learner(*parts)
    assert learner.transductive
    learner = mb.ProtoNet(nn.Sequential(nn.Flatten(), NotCopied())).eval()
    learner(*parts)
    assert not learner.transductive


def test_one_example_says_nothing(parts):
    x, y, query_x = parts
    learner = mb.MAML(network("minus the mean"), 0.1)
    learner(x, y, query_x[:, :1])
    assert not learner.transductive
    learner(x, y, query_x)
    assert learner.transductive


def test_tokens_are_tried_as_they_are():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(11, 6), nn.Linear(6, 5)

        def forward(self, x):
            z = self.table(x).mean(dim=1)
            return self.head(z - z.mean(dim=0))

    x = torch.randint(11, (2, 10, 7))
    learner = mb.MAML(Tokens(), 0.1)
    learner(x, torch.arange(10).remainder(5).expand(2, 10), x)
    assert learner.transductive


class Counts(nn.Module):
    """Changes a buffer and its training mode, and draws, in every pass."""

    def __init__(self):
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))
        self.here = 0

    def forward(self, x):
        self.passes += 1
        self.here += 1
        return x + torch.rand(())


@pytest.mark.parametrize("make", [mb.ProtoNet, mb.FineTuning])
def test_a_trial_leaves_no_trace(make, parts):
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 4), Counts())
    heard = []
    net[0].register_forward_hook(lambda *_: heard.append(1))
    net[1].register_forward_pre_hook(lambda *_: heard.append(1))
    net[1].register_full_backward_hook(lambda *_: heard.append(1))
    net[1].weight.register_hook(lambda g: heard.append(1))
    learner = make(net)
    learner.show(*parts)
    learner.train()
    net[0].eval()
    modes = [m.training for m in learner.modules()]
    state = torch.get_rng_state()
    before = copy.deepcopy(learner.state_dict())
    assert not learner.transductive
    assert not heard
    assert net[2].here == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in learner.modules()] == modes
    assert all(p.grad is None for p in learner.parameters())
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_copy_to_try_things_on_keeps_what_torch_hooked_in():
    layer = nn.utils.weight_norm(nn.Linear(3, 2))
    layer(torch.rand(1, 3))  # keeps an activation, which torch cannot copy
    tried = probes.twin(layer)
    with torch.no_grad():
        tried.weight_g.mul_(2)
    tried(torch.rand(1, 3))
    ratio = tried.weight.norm(dim=1) / layer.weight.norm(dim=1)
    assert ratio.min() > 1.8


def test_a_copy_lies_near_but_nowhere_special():
    layer = nn.Linear(50, 3)
    nn.init.zeros_(layer.bias)
    tried = probes.twin(layer)
    ratio = tried.weight / layer.weight
    assert 0 < (ratio - 1).abs().max() < 0.1
    assert (tried.bias != 0).all()
    assert not layer.bias.any()


def test_answers_that_are_not_finite_say_nothing():
    x = torch.tensor([[[1.0], [2.0]]])
    assert probes.depends_on_others(lambda x: x * torch.nan, x) is None
    assert probes.depends_on_others(torch.zeros_like, x) is None


def test_a_trial_is_no_setting_and_is_not_saved(parts, tmp_path):
    learner = mb.ProtoNet(small_conv(norm="batch")).eval()
    names = set(learner.state_dict())
    learner(*parts)
    assert set(learner.state_dict()) == names
    mb.save(learner, tmp_path / "x.pt")
    loaded = mb.load(tmp_path / "x.pt")
    assert torch.equal(loaded(*parts), learner(*parts))
