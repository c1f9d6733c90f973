# SPDX-License-Identifier: MIT
"""MAML: the gradient is the gradient, and nothing of the caller's changes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from gradients import (
    Quadratic,
    assert_exact,
    curved_net,
    outer_gradient,
    task_batch,
)
from torch import nn

import metabook as mb
from metabook.models.norms import SupportNorm
from metabook.optimization.inner_loop import gradient_steps


@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_outer_gradient_agrees_with_central_differences_of_adapt_then_query(
    steps, vectorized
):
    learner = mb.MAML(
        curved_net(), inner_lr=0.5, inner_steps=steps, vectorized=vectorized
    )
    assert_exact(learner, task_batch())


NORMS = {
    "batch": lambda: nn.BatchNorm2d(2, track_running_stats=False),
    "support": lambda: SupportNorm(2),
    "group": lambda: nn.GroupNorm(1, 2),
}


@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_the_outer_gradient_is_right_through_normalisation_and_convolution(
    norm, vectorized
):
    """Whatever this torch's own normalisation does under vmap: side by side it
    is written out.
    """
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        NORMS[norm](),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(18, 3),
    ).double()
    learner, episode = (
        mb.MAML(net, inner_lr=0.5, inner_steps=2, vectorized=vectorized),
        task_batch(features=25),
    )
    episode = mb.Episode(
        episode.support_x.unflatten(2, (1, 5, 5)),
        episode.support_y,
        episode.query_x.unflatten(2, (1, 5, 5)),
        episode.query_y,
    )
    assert_exact(learner, episode, atol=1e-8)


class BatchNorm(nn.Module):
    """Batch norm that is no layer, hence not written out side by side."""

    def forward(self, x):
        return F.batch_norm(x, None, None, training=True)


@pytest.mark.parametrize("vectorized", [False, True])
def test_the_outer_gradient_is_right_through_torchs_own_batch_norm(vectorized):
    """Under vmap of torch.func.grad its second derivatives are wrong (2.13);
    here gradients are taken outside of vmap.
    """
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(2, 4), BatchNorm(), nn.Tanh(), nn.Linear(4, 3)
    ).double()
    learner = mb.MAML(net, inner_lr=0.5, inner_steps=2, vectorized=vectorized)
    assert_exact(learner, task_batch(), atol=1e-8)


def test_first_order_is_another_gradient_and_says_so_by_its_name_alone():
    episode, net = task_batch(), curved_net()
    second, first = (
        mb.MAML(net, inner_lr=0.5),
        mb.MAML(net, inner_lr=0.5, first_order=True),
    )
    a, b = outer_gradient(second, episode), outer_gradient(first, episode)
    assert (a - b).norm() / a.norm() > 0.01
    assert second.loss(episode).item() == first.loss(episode).item(), (
        "the value is the same; only the gradient differs"
    )


def test_first_order_is_the_query_gradient_at_the_adapted_weights():
    learner, episode = (
        mb.MAML(curved_net(), inner_lr=0.5, inner_steps=2, first_order=True),
        task_batch(tasks=1),
    )
    fast = {
        n: w[0].detach().requires_grad_()
        for n, w in learner.adapt(
            episode.support_x, episode.support_y
        ).weights.items()
    }
    scores = torch.func.functional_call(
        learner.model, fast, (episode.query_x[0],)
    )
    grads = torch.autograd.grad(
        F.cross_entropy(scores, episode.query_y[0]), list(fast.values())
    )
    assert torch.allclose(
        outer_gradient(learner, episode),
        torch.cat([g.flatten() for g in grads]),
        rtol=1e-10,
    )


def test_first_order_builds_no_graph_through_the_inner_gradient():
    learner, episode = (
        mb.MAML(curved_net(), inner_lr=0.5, inner_steps=3, first_order=True),
        task_batch(tasks=1),
    )
    fast = learner.adapt(episode.support_x, episode.support_y).weights
    nodes, todo = set(), [w.grad_fn for w in fast.values()]
    while todo:
        node = todo.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            todo += [n for n, _ in node.next_functions]
    names = {type(n).__name__ for n in nodes}
    assert names <= {
        "CatBackward0",
        "SubBackward0",
        "ExpandBackward0",
        "AccumulateGrad",
    }, names


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_closed_form_on_a_quadratic(steps):
    """theta_K - c = (I - lr A)^K (theta - c), so the outer gradient is (I - lr
    A)^K A (theta_K - c).
    """
    model, lr = Quadratic(), 0.1
    learner = mb.MAML(
        model, inner_lr=lr, inner_steps=steps, loss_fn=lambda p, y: p.mean()
    )
    zeros = torch.zeros(1, 2, 1, dtype=torch.float64)
    episode = mb.Episode(zeros, zeros, zeros, zeros)
    shrink = torch.linalg.matrix_power(
        torch.eye(4, dtype=torch.float64) - lr * model.A, steps
    )
    c = torch.linalg.solve(model.A, model.b)
    adapted = c + shrink @ (model.theta.detach() - c)
    fast = learner.adapt(zeros, zeros).weights["theta"][0]
    assert torch.allclose(fast, adapted, rtol=1e-12)
    assert torch.allclose(
        outer_gradient(learner, episode),
        shrink @ model.A @ (adapted - c),
        rtol=1e-10,
    )


def test_copies_of_one_task_give_the_gradient_of_one():
    learner, one = mb.MAML(curved_net(), inner_lr=0.5), task_batch(tasks=1)
    four = mb.Episode(
        *(
            t.repeat(4, *[1] * (t.dim() - 1))
            for t in (one.support_x, one.support_y, one.query_x, one.query_y)
        )
    )
    assert torch.allclose(
        outer_gradient(learner, one), outer_gradient(learner, four), rtol=1e-12
    )


def test_backward_adds_to_grad_and_equals_the_gradient_of_the_loss():
    learner, episode = (
        mb.MAML(curved_net(), inner_lr=0.5, inner_steps=2),
        task_batch(tasks=3),
    )
    by_task = outer_gradient(learner, episode)
    learner.backward(episode)
    twice = torch.cat([p.grad.flatten() for p in learner.parameters()])
    whole = torch.autograd.grad(
        learner.loss(episode), list(learner.parameters())
    )
    assert torch.allclose(
        by_task, torch.cat([g.flatten() for g in whole]), rtol=1e-10
    )
    assert torch.allclose(twice, 2 * by_task, rtol=1e-12)


def test_a_gradient_that_two_parameters_share_is_not_added_twice():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (
                nn.Parameter(torch.zeros(3).double()),
                nn.Parameter(torch.zeros(3).double()),
            )
            self.l = nn.Linear(2, 3).double()

        def forward(self, x):
            return self.l(x) + (self.a + self.b)

    learner, episode = (
        mb.MAML(Sum(), inner_lr=0.5, first_order=True),
        task_batch(tasks=3),
    )
    whole = torch.autograd.grad(
        learner.loss(episode), list(learner.parameters())
    )
    assert torch.allclose(
        outer_gradient(learner, episode),
        torch.cat([g.flatten() for g in whole]),
        rtol=1e-10,
    )


def test_threads_change_no_bit_where_each_has_one_core():
    net, episode = curved_net(), task_batch(tasks=7)
    learners = [
        mb.MAML(copy.deepcopy(net), 0.5, 2, vectorized=False, threads=n)
        for n in (1, 3)
    ]
    one, three = (outer_gradient(learner, episode) for learner in learners)
    assert torch.equal(one, three)


def test_every_parameter_learns():
    learner = mb.MAML(
        mb.Conv4(out=5, width=4, norm="batch_stats"), inner_lr=0.4
    )
    tasks = mb.FewShotTasks(mb.glyphs(classes=10), way=5, shot=1, query=3)
    learner.backward(tasks.sample(4))
    for name, p in learner.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().max() > 0, name


def test_under_no_grad_the_same_answer_comes_without_a_graph():
    learner, episode = (
        mb.MAML(curved_net(), inner_lr=0.5, inner_steps=3),
        task_batch(),
    )
    inputs = episode.support_x, episode.support_y, episode.query_x
    with_graph = learner(*inputs)
    with torch.no_grad():
        without, predictor = learner(*inputs), learner.adapt(*inputs[:2])
    assert torch.equal(with_graph, without)
    assert with_graph.requires_grad
    assert not without.requires_grad
    fast = predictor.weights.values()
    assert all(w.grad_fn is None and not w.requires_grad for w in fast)
    assert torch.allclose(predictor(episode.query_x), without)


def test_which_class_is_called_which_matters_to_maml():
    """Unlike a prototypical network: the rows of the head start at different
    weights (Ye & Chao, 2021).
    """
    learner, episode = mb.MAML(curved_net(), inner_lr=0.5), task_batch()
    order = torch.tensor([1, 2, 0])
    scores = learner(episode.support_x, episode.support_y, episode.query_x)
    renamed = learner(
        episode.support_x, order[episode.support_y], episode.query_x
    )
    assert not torch.allclose(scores, renamed[:, :, order], rtol=1e-3)


def test_an_episode_in_the_wrong_precision_is_named_before_torch_fails():
    with pytest.raises(
        ValueError,
        match=r"support_x is torch.float32 but the weights are torch.float64",
    ):
        mb.MAML(curved_net()).backward(task_batch().to(torch.float32))


def test_inference_mode_is_explained():
    learner, episode = mb.MAML(curved_net(), inner_lr=0.5), task_batch()
    with (
        torch.inference_mode(),
        pytest.raises(RuntimeError, match=r"use torch\.no_grad\(\)"),
    ):
        learner(episode.support_x, episode.support_y, episode.query_x)


def test_steps_at_test_may_differ_and_more_steps_fit_the_support_set_better():
    learner, episode = mb.MAML(curved_net(), inner_lr=0.5), task_batch()
    losses = []
    for steps in (0, 1, 10, 50):
        scores = learner(
            episode.support_x, episode.support_y, episode.support_x, steps=steps
        )
        losses.append(
            F.cross_entropy(
                scores.flatten(0, 1), episode.support_y.flatten()
            ).item()
        )
    assert losses == sorted(losses, reverse=True)


def test_running_statistics_are_refused_by_name():
    with pytest.raises(
        ValueError,
        match=(
            r"features\.1 is a BatchNorm2d with running"
            r" statistics.*norm='batch_stats'"
        ),
    ):
        mb.MAML(mb.Conv4(out=5))


def test_unused_parameters_are_named():
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(2, 3), nn.Linear(2, 3)

        def forward(self, x):
            return self.used(x)

    episode = task_batch()
    learner = mb.MAML(TwoHeads().double())
    with pytest.raises(
        ValueError,
        match=(
            r"does not reach spare\.weight,"
            r" spare\.bias.*requires_grad_\(False\)"
        ),
    ):
        learner.loss(episode)
    learner.model.spare.requires_grad_(False)
    learner.backward(episode)


def test_a_head_of_another_width_is_named():
    learner = mb.MAML(nn.Linear(2, 4).double())
    with pytest.raises(
        ValueError, match="4 outputs but the tasks have 3 classes"
    ):
        learner.loss(task_batch())


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.head = nn.Linear(2, 8), nn.Linear(8, 3)

    def forward(self, x):
        q = self.q(x)[:, None, None, :]
        return self.head(F.scaled_dot_product_attention(q, q, q)[:, 0, 0])


def test_attention_has_its_second_derivative():
    torch.manual_seed(0)
    net = Attention().double()
    learner, episode = mb.MAML(net, inner_lr=0.5), task_batch()
    assert_exact(learner, episode)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 2 * g


def test_without_a_second_derivative_first_order_is_the_way_out():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.b(Once.apply(self.a(x)))

    net, episode = Net().double(), task_batch()
    for threads in (1, 2):
        with pytest.raises(
            RuntimeError, match=r"no second derivative.*first_order=True"
        ):
            mb.MAML(net, inner_lr=0.1, threads=threads).backward(episode)
    mb.MAML(net, inner_lr=0.1, first_order=True).backward(episode)


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (
                nn.Linear(3, 3, bias=False),
                nn.Linear(3, 3, bias=False),
            )
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(torch.tanh(self.a(x)))

    net = Tied().double()
    episode = task_batch(features=3)
    learner = mb.MAML(net, inner_lr=0.5)
    assert_exact(learner, episode)


def test_no_graph_is_built_at_test(monkeypatch):
    """A graph would hold the steps of every test task in memory, for nobody."""
    learner, episode = (
        mb.MAML(curved_net(), inner_lr=0.5, inner_steps=3),
        task_batch(),
    )
    monkeypatch.setenv("METABOOK_PROBE", "0")
    asked, grad = [], torch.autograd.grad

    def spy(*args, **kwargs):
        asked.append(kwargs["create_graph"])
        return grad(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", spy)
    learner(episode.support_x, episode.support_y, episode.query_x)
    with torch.no_grad():
        learner(episode.support_x, episode.support_y, episode.query_x)
    assert asked == [True] * 3 + [False] * 3


def test_regression_without_its_loss_is_refused_before_it_trains_on_zero():
    with pytest.raises(
        ValueError,
        match=(
            r"regression needs its own loss, as"
            r" loss_fn=torch\.nn\.functional\.mse_loss"
        ),
    ):
        mb.MAML(mb.MLP(1, 1)).loss(mb.Sinusoids().sample(2))
    waves = mb.Sinusoids().sample(2)
    with pytest.raises(
        ValueError, match=r"predictions are .20, 1. but the targets are .20,."
    ):
        mb.MAML(mb.MLP(1, 1), loss_fn=F.mse_loss).loss(
            mb.Episode(
                waves.support_x,
                waves.support_y[..., 0],
                waves.query_x,
                waves.query_y[..., 0],
            )
        )
    with pytest.raises(ValueError, match="it must be a scalar"):
        mb.MAML(
            mb.MLP(1, 1),
            loss_fn=lambda p, y: F.mse_loss(p, y, reduction="none"),
        ).loss(mb.Sinusoids().sample(2))


def test_impossible_steps_queries_and_models_are_named():
    learner, episode = mb.MAML(curved_net(), inner_lr=0.5), task_batch()
    with pytest.raises(ValueError, match="steps is -3"):
        learner(episode.support_x, episode.support_y, episode.query_x, steps=-3)
    for lr in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="inner_lr is"):
            mb.MAML(curved_net(), inner_lr=lr)
    with pytest.raises(ValueError, match="nothing to adapt"):
        mb.MAML(nn.Linear(2, 3).requires_grad_(False))


def test_maml_update_is_the_inner_step_and_leaves_the_model_alone():
    model = curved_net()
    before = copy.deepcopy(model.state_dict())
    x, y = torch.randn(6, 2, dtype=torch.float64), torch.arange(6) % 3
    loss = F.cross_entropy(model(x), y)
    fast = mb.maml_update(model, loss, lr=0.5)
    assert all(torch.equal(before[n], w) for n, w in model.state_dict().items())
    theta = dict(model.named_parameters())

    def loss_at(weights, step):
        return F.cross_entropy(
            torch.func.functional_call(model, weights, (x,)), y
        )

    start, end = gradient_steps(
        theta, loss_at, lambda step: 0.5, steps=1, graph=True
    )
    assert start is theta
    assert all(
        torch.equal(a, b) for a, b in zip(fast, end.values(), strict=True)
    )


@pytest.mark.parametrize("first_order", [False, True])
def test_maml_update_is_differentiable_through_the_step_unless_first_order(
    first_order,
):
    model = Quadratic()
    loss = model(torch.zeros(1, 1)).mean()
    (fast,) = mb.maml_update(model, loss, lr=0.1, first_order=first_order)
    (jacobian_row,) = torch.autograd.grad(fast[0], [model.theta])
    identity = torch.eye(4, dtype=torch.float64)
    expected = identity if first_order else identity - 0.1 * model.A
    assert torch.allclose(jacobian_row, expected[0], rtol=1e-12)


def test_maml_update_names_unused_parameters_and_keeps_frozen_ones():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"does not reach 1\.weight, 1\.bias"):
        mb.maml_update(model, model[0](torch.ones(1, 2)).sum(), lr=0.1)
    model[1].requires_grad_(False)
    fast = mb.maml_update(model, model[0](torch.ones(1, 2)).sum(), lr=0.1)
    assert len(fast) == 4
    assert torch.equal(fast[2], model[1].weight)
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match="does not depend on any parameter"),
    ):
        mb.maml_update(model, model(torch.ones(1, 2)).sum(), lr=0.1)


def test_maml_learns_sine_waves():
    learner = mb.MAML(mb.MLP(1, 1), inner_lr=0.01, loss_fn=F.mse_loss)
    mb.train(
        learner,
        mb.Sinusoids(shot=10, seed=0),
        iterations=300,
        tasks_per_batch=10,
        lr=5e-3,
    )
    test = mb.Sinusoids(shot=10, query=50, seed=1)
    after = mb.evaluate(learner, test, episodes=200)
    learner.inner_lr = 0.0
    before = mb.evaluate(learner, test, episodes=200)
    assert after.metric == "mse_loss"
    assert not after.higher_is_better
    assert after.mean + after.ci95 < 0.75 * (before.mean - before.ci95)


class Cudnn(torch.autograd.Function):
    """What cuDNN does with a recurrent layer in evaluation mode."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        if torch.backends.cudnn.enabled:
            raise RuntimeError(
                "cudnn RNN backward can only be called in training mode"
            )
        return 2 * g


@pytest.mark.parametrize(
    "make",
    [
        lambda net: mb.MAML(net, 0.1, threads=1),
        lambda net: mb.MAML(net, 0.1, threads=2),
        lambda net: mb.MAML(net, 0.1, first_order=True),
        lambda net: mb.Reptile(net, 0.1),
    ],
)
def test_a_recurrent_layer_in_evaluation_on_a_gpu_is_told_in_words(make):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.b(Cudnn.apply(self.a(x)))

    learner, episode = make(Net().double()).eval(), task_batch()
    parts = episode.support_x, episode.support_y, episode.query_x
    way_out = r"no gradient in evaluation.*cudnn\.flags\(enabled=False\)$"
    for call in (
        lambda: learner.backward(episode),
        lambda: learner(*parts),
        lambda: learner.adapt(*parts[:2]),
        lambda: learner.predict(*parts),
    ):
        with pytest.raises(RuntimeError, match=way_out):
            call()
        with torch.backends.cudnn.flags(enabled=False):
            call()
