# SPDX-License-Identifier: MIT
"""A model whose second derivatives are wrong is found by a difference quotient,
and one whose are right is left in peace.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import small_conv
from gradients import assert_exact, curved_net, task_batch
from torch import nn

import metabook as mb
from metabook.optimization import second_derivatives
from metabook.optimization.second_derivatives import (
    _Loss,
    check_second_derivatives,
)

weight_norm = nn.utils.parametrizations.weight_norm


class Forgets(torch.autograd.Function):
    """A square whose gradient does not know what it depends on."""

    @staticmethod
    def forward(ctx, x):
        ctx.x = x.detach().clone()
        return x**2

    @staticmethod
    def backward(ctx, g):
        return 2 * g * ctx.x


class Approximates(Forgets):
    """A square with the right gradient, and 0.8 of its derivative."""

    @staticmethod
    def backward(ctx, g):
        return Scaled.apply(g, ctx.x)


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, g, x):
        ctx.x = x
        return 2 * g * x

    @staticmethod
    def backward(ctx, gg):
        return 1.6 * gg * ctx.x, None


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class WrittenOut(nn.Module):
    """Weight norm in plain operations: the way out that the error names."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.v = nn.Parameter(torch.randn(outputs, inputs))
        self.g = nn.Parameter(torch.ones(outputs, 1))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        w = self.g * self.v / self.v.norm(dim=1, keepdim=True)
        return F.linear(x, w, self.bias)


def net(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*(make() for make in layers)).double()


def linear():
    return nn.Linear(2, 6)


def head():
    return nn.Linear(6, 3)


WRONG = {
    "weight norm": (
        r"0.parametrizations.weight \(Par",
        lambda: net(lambda: weight_norm(linear()), nn.Tanh, head),
    ),
    "weight norm, the old form": (
        r"0 \(Linear\)",
        lambda: net(lambda: nn.utils.weight_norm(linear()), nn.Tanh, head),
    ),
    "weight norm of the head": (
        r"2.parametrizations.weight \(Par",
        lambda: net(linear, nn.Tanh, lambda: weight_norm(head())),
    ),
    "two weight norms": (
        r"0.parametrizations.weight \(ParametrizationList\) and 2.param",
        lambda: net(
            lambda: weight_norm(linear()),
            nn.Tanh,
            lambda: weight_norm(head()),
        ),
    ),
    "weight norm, ReLU": (
        r"0.parametrizations.weight \(Par",
        lambda: net(
            lambda: weight_norm(nn.Linear(2, 40)),
            nn.ReLU,
            lambda: nn.Linear(40, 3),
        ),
    ),
    "spectral norm": (
        r"0.parametrizations.weight \(Par",
        lambda: net(
            lambda: nn.utils.parametrizations.spectral_norm(linear()),
            nn.Tanh,
            head,
        ),
    ),
    "an operation of one's own": (
        r"0 \(Linear\)",
        lambda: net(linear, lambda: Apply(Forgets.apply), head),
    ),
    "an operation that approximates": (
        r"0 \(Linear\)",
        lambda: net(linear, lambda: Apply(Approximates.apply), head),
    ),
    "one between layers without weights": (
        r"0 \(Linear\) is",
        lambda: net(linear, nn.Tanh, lambda: Apply(Forgets.apply), head),
    ),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_second_derivative_is_refused_with_the_layer(name):
    layer, make = WRONG[name]
    model, episode = make(), task_batch()
    learner = mb.MAML(model, 0.5, vectorized=False)
    parts = episode.support_x, episode.support_y, episode.query_x
    for call in (
        lambda: learner.backward(episode),
        lambda: learner.backward(episode),  # again
        lambda: learner.loss(episode),
        lambda: learner(*parts),
        lambda: learner.forward_each_step(*parts),
        lambda: learner.adapt(*parts[:2]),
    ):
        with pytest.raises(RuntimeError, match=f"derivative of {layer}"):
            call()
    assert all(p.grad is None for p in learner.parameters())
    with torch.no_grad():
        assert learner(*parts).isfinite().all()


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_is_refused_was_wrong(name, monkeypatch):
    monkeypatch.setenv("METABOOK_PROBE", "0")  # a way out
    learner = mb.MAML(WRONG[name][1](), 0.5, vectorized=False)
    with pytest.raises(AssertionError):
        assert_exact(learner, task_batch())


def deep():
    """Many kinks."""
    return net(
        lambda: nn.Linear(2, 300),
        nn.ReLU,
        lambda: nn.Linear(300, 300),
        nn.ReLU,
        lambda: nn.Linear(300, 3),
    )


RIGHT = {
    "tanh": curved_net,
    "kinks": lambda: net(
        lambda: nn.Linear(2, 9), nn.ReLU, lambda: nn.Linear(9, 3)
    ),
    "weight norm written out": lambda: net(
        lambda: WrittenOut(2, 6), nn.Tanh, head
    ),
    "layer norm": lambda: net(linear, lambda: nn.LayerNorm(6), nn.GELU, head),
    "orthogonal": lambda: net(
        linear,
        lambda: nn.utils.parametrizations.orthogonal(nn.Linear(6, 6)),
        nn.Tanh,
        head,
    ),
    "spectral norm in evaluation": lambda: net(
        lambda: nn.utils.parametrizations.spectral_norm(linear()),
        nn.Tanh,
        head,
    ).eval(),
    "batch statistics": lambda: net(
        linear,
        lambda: nn.BatchNorm1d(6, track_running_stats=False),
        nn.Tanh,
        head,
    ),
    "a constant that is detached": lambda: net(
        linear,
        nn.Tanh,
        head,
        lambda: Apply(lambda x: x - x.amax(1, keepdim=True).detach()),
    ),
    "a head of zeros": lambda: zeros(net(linear, nn.Tanh, head)),
}


def zeros(model):
    for p in model[-1].parameters():
        nn.init.zeros_(p)
    return model


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_second_derivative_is_taken(name):
    learner = mb.MAML(RIGHT[name](), 0.5, vectorized=False)
    episode = task_batch()
    assert_exact(learner, episode, atol=1e-8)
    assert conclusive(learner, episode)


def conclusive(learner, episode):
    """Whether a second derivative that is off by a hundredth would be seen."""
    loss = _Loss(learner, episode.support_x[:1, :4], episode.support_y[:1, :4])
    differ = second_derivatives._differ

    def of_another(f, v, gradient):
        noise = torch.Generator().manual_seed(2)
        off = {
            n: g * (1 + 0.01 * torch.randn(g.shape, generator=noise))
            for n, g in gradient.items()
        }
        return differ(f, v, off)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(second_derivatives, "_differ", of_another)
        return loss.second_is_wrong(loss.theta)


@pytest.mark.parametrize("norm", ["batch_stats", "support", "group", "none"])
@pytest.mark.parametrize("strided", [False, True])
def test_convolutions_are_tried_in_earnest(norm, strided, tasks):
    learner = mb.MAML(mb.Conv4(5, width=16, norm=norm, strided=strided), 0.1)
    episode = tasks.sample(1)
    check_second_derivatives(learner, episode.support_x, episode.support_y)
    assert conclusive(learner, episode)
    weight_norm(learner.model.features[0])
    with pytest.raises(RuntimeError, match=r"features\.0\.parametrizations"):
        check_second_derivatives(learner, episode.support_x, episode.support_y)


def test_dropout_hides_nothing():
    learner = mb.MAML(net(lambda: weight_norm(linear()), nn.Dropout, head), 0.5)
    with pytest.raises(RuntimeError, match=r"0\.parametrizations\.weight"):
        learner.backward(task_batch())


def test_quotients_that_disagree_with_each_other_say_nothing():
    """A layer in single precision: its steps are seen, and not its slope."""
    model = net(linear, lambda: Apply(lambda x: x.float().to(x)), nn.Tanh, head)
    assert mb.MAML(model, 0.5).backward(task_batch()) > 0


class Sign(torch.autograd.Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, g):
        return g


@pytest.mark.parametrize(
    "function", [Sign.apply, lambda x: x * x.sigmoid().detach()]
)
def test_gradients_that_are_no_gradients_by_intention_are_taken(function):
    model = net(linear, lambda: Apply(function), head)
    assert mb.MAML(model, 0.5, vectorized=False).backward(task_batch()) > 0


@pytest.mark.parametrize(
    "make",
    [
        lambda m: mb.MAML(m, 0.5, 2),
        lambda m: mb.MAML(m, 0.5, vectorized=True),
        lambda m: mb.MAML(m, 0.5, compiled=True),
        lambda m: mb.MAML(m, 0.5, threads=2),
        lambda m: mb.MetaSGD(m, 0.5),
        lambda m: mb.MAMLPlusPlus(m, 0.5),
        lambda m: mb.ANIL(m, 0.5, head="0"),
        lambda m: mb.ImplicitMAML(m, 0.5, 2),
    ],
)
def test_the_whole_family_is_told(make):
    learner = make(WRONG["weight norm"][1]())
    with pytest.raises(RuntimeError, match=r"0\.parametrizations\.weight"):
        learner.backward(task_batch())


@pytest.mark.parametrize(
    "make",
    [
        lambda m: mb.MAML(m, 0.5, first_order=True),  # the way out
        lambda m: mb.Reptile(m, 0.5, 2),
        lambda m: mb.JointTraining(m, 0.5),
    ],
)
def test_who_takes_no_second_derivative_is_not_asked(make):
    learner = make(WRONG["weight norm"][1]())
    assert learner.backward(task_batch()) > 0


def test_anil_with_the_norm_in_its_body_takes_no_wrong_derivative():
    assert_exact(mb.ANIL(WRONG["weight norm"][1](), 0.5), task_batch())


def test_it_is_asked_once_second_derivatives_begin():
    model = WRONG["weight norm"][1]()
    learner = mb.MAMLPlusPlus(model, 0.5, 2, first_order_until=1)
    learner.backward(task_batch())
    with pytest.raises(RuntimeError, match="second derivative"):
        learner.backward(task_batch())


def test_it_is_tried_once_for_each_kind_of_tasks(monkeypatch):
    tried = []
    monkeypatch.setattr(
        "metabook.optimization.learner.check_second_derivatives",
        lambda learner, *_: tried.append(learner.training),
    )
    learner, episode = mb.MAML(curved_net(), 0.5), task_batch()
    for _ in range(2):
        learner.backward(episode)
        learner.loss(episode)
        learner(episode.support_x, episode.support_y, episode.query_x)
        copy.deepcopy(learner).backward(episode)
    assert tried == [True]
    learner.eval().backward(episode)
    assert tried == [True, False]
    learner.model.insert(0, nn.Identity())
    learner.backward(episode)
    assert len(tried) == 3
    with torch.no_grad():
        learner.train()(episode.support_x, episode.support_y, episode.query_x)
    assert len(tried) == 3


class Failing(nn.Module):
    """Works, but not on a copy in double precision."""

    def __init__(self, how):
        super().__init__()
        self.how, self.layer = how, nn.Linear(2, 3)
        self.scale = torch.ones(3)  # no buffer: stays as it is

    def __deepcopy__(self, memo):
        if self.how == "copy":
            raise RuntimeError("no copies")
        other = Failing(self.how)
        other.layer = copy.deepcopy(self.layer, memo)
        return other

    def forward(self, x):
        if self.how == "type":
            return F.linear(x, self.layer.weight) @ torch.diag(self.scale)
        if self.how == "random":
            return self.layer(x) + torch.rand((), generator=GENERATOR)
        return self.layer(x)


GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("how", ["copy", "type", "random"])
def test_what_cannot_be_tried_is_taken(how):
    model, episode = Failing(how), task_batch().to(torch.float32)
    if how == "type":
        model.layer.bias.requires_grad_(False)
    learner = mb.MAML(model, 0.5, threads=1)
    assert learner.backward(episode) > 0


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))
        self.here = 0

    def forward(self, x):
        self.passes += 1
        self.here += 1
        return x


def test_a_trial_leaves_no_trace():
    model = nn.Sequential(linear(), nn.Dropout(0.5), Counts(), head())
    heard = []
    model[0].register_forward_hook(lambda *_: heard.append(1))
    model[0].register_full_backward_hook(lambda *_: heard.append(1))
    model[0].weight.register_hook(lambda g: heard.append(1))
    model[0].bias.register_post_accumulate_grad_hook(lambda p: heard.append(1))
    learner = mb.MAML(model, 0.5)
    before = copy.deepcopy(learner.state_dict())
    state, episode = torch.get_rng_state(), task_batch().to(torch.float32)
    check_second_derivatives(learner, episode.support_x, episode.support_y)
    assert not heard
    assert model[2].here == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in learner.parameters())
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_tokens_and_regression_are_tried():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(11, 6)
            self.head = weight_norm(nn.Linear(6, 1))

        def forward(self, x):
            return self.head(self.table(x).mean(dim=1))

    x, y = torch.randint(11, (2, 5, 7)), torch.rand(2, 5, 1)
    learner = mb.MAML(Tokens(), 0.1, loss_fn=F.mse_loss)
    with pytest.raises(RuntimeError, match=r"of head\.parametrizations"):
        learner.backward(mb.Episode(x, y, x, y))


def test_a_loss_with_a_wrong_second_derivative_is_found():
    def loss_fn(predictions, targets):
        return Forgets.apply(predictions - targets).mean()

    waves = mb.Sinusoids(shot=5).sample(2)
    learner = mb.MAML(mb.MLP(1, 1), 0.01, loss_fn=loss_fn)
    with pytest.raises(RuntimeError, match="second derivative"):
        learner.backward(waves)


def test_small_networks_cost_little_to_try(tasks):
    """In passes: a few of a few examples."""
    passes = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small_conv(out=5)

        def __deepcopy__(self, memo):
            other = Net()
            other.net = copy.deepcopy(self.net, memo)
            return other

        def forward(self, x):
            passes.append(len(x))
            return self.net(x)

    episode = tasks.sample(1)
    learner = mb.MAML(Net(), 0.1)
    check_second_derivatives(learner, episode.support_x, episode.support_y)
    assert len(passes) in (5, 9)
    assert max(passes) == 4
