# SPDX-License-Identifier: MIT
"""The relatives of MAML: each differs from it by what it says, and by nothing
else.
"""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from gradients import (
    Quadratic,
    assert_exact,
    curved_net,
    numeric_gradient,
    outer_gradient,
    task_batch,
)
from torch import nn

import metabook as mb


@pytest.mark.parametrize("relative", [mb.ANIL, mb.MetaSGD])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_outer_gradient_agrees_with_central_differences(relative, steps):
    assert_exact(
        relative(curved_net(), inner_lr=0.3, inner_steps=steps), task_batch()
    )


def test_anil_keeps_the_body_in_the_inner_loop_and_learns_it_in_the_outer():
    learner, episode = mb.ANIL(curved_net(), inner_lr=0.5), task_batch()
    assert set(learner.adapt(episode.support_x, episode.support_y).weights) == {
        "2.weight",
        "2.bias",
    }
    learner.backward(episode)
    assert learner.model[0].weight.grad.abs().max() > 0


def test_anil_of_the_whole_model_is_maml_and_of_nothing_is_refused():
    net, episode = nn.Sequential(curved_net()), task_batch()
    a, b = mb.ANIL(net, head="0", inner_lr=0.5), mb.MAML(net, inner_lr=0.5)
    assert torch.equal(outer_gradient(a, episode), outer_gradient(b, episode))
    with pytest.raises(
        ValueError,
        match=r"nothing to adapt in 'tail'; its layers are 0\.0, 0\.2",
    ):
        mb.ANIL(net, head="tail")


def test_meta_sgd_with_equal_step_sizes_computes_what_maml_computes():
    net, episode = curved_net(), task_batch()
    meta_sgd, maml = (
        mb.MetaSGD(net, inner_lr=0.3, inner_steps=2),
        mb.MAML(net, inner_lr=0.3, inner_steps=2),
    )
    assert torch.equal(meta_sgd.loss(episode), maml.loss(episode))
    by_maml = outer_gradient(maml, episode)
    meta_sgd.zero_grad()
    meta_sgd.backward(episode)
    assert torch.allclose(
        torch.cat([p.grad.flatten() for p in net.parameters()]),
        by_maml,
        rtol=1e-12,
    )


def test_meta_sgd_learns_its_step_sizes_and_they_may_turn_negative():
    learner, episode = mb.MetaSGD(curved_net(), inner_lr=0.01), task_batch()
    mb.train(
        learner, _Always(episode), iterations=40, tasks_per_batch=1, lr=0.05
    )
    steps = torch.cat([a.flatten() for a in learner.step_sizes])
    assert steps.min() < 0 < steps.max()


class _Always:
    def __init__(self, episode):
        self.episode = episode

    def sample(self, tasks, start=0):
        return self.episode


@pytest.mark.parametrize("steps", [1, 4])
def test_reptile_moves_towards_the_adapted_weights(steps):
    """On a quadratic phi - c = (I - lr A)^k (theta - c), so the direction is (I
    - (I - lr A)^k)(theta - c).
    """
    model, lr = Quadratic(), 0.1
    learner = mb.Reptile(
        model, inner_lr=lr, inner_steps=steps, loss_fn=lambda p, y: p.mean()
    )
    zeros = torch.zeros(1, 2, 1, dtype=torch.float64)
    identity = torch.eye(4, dtype=torch.float64)
    shrink = torch.linalg.matrix_power(identity - lr * model.A, steps)
    c = torch.linalg.solve(model.A, model.b)
    expected = (identity - shrink) @ (model.theta.detach() - c)
    assert torch.allclose(
        outer_gradient(learner, mb.Episode(zeros, zeros, zeros, zeros)),
        expected,
        rtol=1e-10,
    )


def test_reptile_with_one_step_is_joint_training():
    """theta - phi = lr * (mean gradient over the tasks), of all examples of
    each.
    """
    net, episode = curved_net(), task_batch(tasks=3)
    direction = outer_gradient(
        mb.Reptile(net, inner_lr=0.2, inner_steps=1), episode
    )
    x, y = (
        torch.cat([episode.support_x, episode.query_x], 1),
        torch.cat([episode.support_y, episode.query_y], 1),
    )
    joint = torch.stack(
        [F.cross_entropy(net(x[t]), y[t]) for t in range(3)]
    ).mean()
    gradient = torch.cat(
        [
            g.flatten()
            for g in torch.autograd.grad(joint, list(net.parameters()))
        ]
    )
    assert torch.allclose(direction, 0.2 * gradient, rtol=1e-10)


def test_reptiles_update_is_that_of_the_paper():
    learner, episode = (
        mb.Reptile(curved_net(), inner_lr=0.2, inner_steps=3),
        task_batch(tasks=2),
    )
    before = copy.deepcopy(dict(learner.model.named_parameters()))
    x, y = (
        torch.cat([episode.support_x, episode.query_x], 1),
        torch.cat([episode.support_y, episode.query_y], 1),
    )
    with torch.no_grad():
        phi = learner.adapt(x, y).weights
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.5)
    learner.backward(episode)
    optimizer.step()
    for name, theta in learner.model.named_parameters():
        assert torch.allclose(
            theta,
            before[name] + 0.5 * (phi[name].mean(0) - before[name]),
            rtol=1e-12,
        )


@pytest.mark.parametrize("cg_steps", [4, 10])
def test_implicit_maml_solves_for_the_exact_gradient_on_a_quadratic(cg_steps):
    """At the minimum phi of L + lam/2 |phi - theta|^2 the outer gradient is (I
    + A / lam)^-1 times that of the query.
    """
    model, lam = Quadratic(), 2.0
    learner = mb.ImplicitMAML(
        model,
        0.2,
        400,
        lam=lam,
        cg_steps=cg_steps,
        loss_fn=lambda p, y: p.mean(),
    )
    zeros = torch.zeros(1, 2, 1, dtype=torch.float64)
    episode = mb.Episode(zeros, zeros, zeros, zeros)
    identity = torch.eye(4, dtype=torch.float64)
    phi = torch.linalg.solve(
        model.A + lam * identity, model.b + lam * model.theta.detach()
    )
    assert torch.allclose(
        learner.adapt(zeros, zeros).weights["theta"][0], phi, rtol=1e-10
    )
    expected = torch.linalg.solve(
        identity + model.A / lam, model.A @ phi - model.b
    )
    assert torch.allclose(outer_gradient(learner, episode), expected, rtol=1e-8)


def test_implicit_maml_agrees_with_differences_where_its_inner_loop_converged():
    net, episode = curved_net(), task_batch(tasks=3)
    learner = mb.ImplicitMAML(net, 0.3, 300, lam=1.5, cg_steps=40)
    implicit = outer_gradient(learner, episode)

    def loss():
        with torch.no_grad():
            return mb.Learner.loss(learner, episode).item()  # of its answers

    numeric = torch.cat(
        [g.flatten() for g in numeric_gradient(loss, learner.parameters())]
    )
    assert torch.allclose(implicit, numeric, rtol=1e-5, atol=1e-8)


def test_implicit_maml_without_a_pull_is_refused():
    with pytest.raises(ValueError, match="lam is 0"):
        mb.ImplicitMAML(curved_net(), lam=0)


def test_joint_training_follows_the_gradient_unadapted_and_adapts_at_test():
    net, episode = curved_net(), task_batch(tasks=3)
    learner = mb.JointTraining(net, inner_lr=0.2, inner_steps=2)
    x, y = (
        torch.cat([episode.support_x, episode.query_x], 1),
        torch.cat([episode.support_y, episode.query_y], 1),
    )
    joint = torch.stack(
        [F.cross_entropy(net(x[t]), y[t]) for t in range(3)]
    ).mean()
    gradient = torch.cat(
        [
            g.flatten()
            for g in torch.autograd.grad(joint, list(net.parameters()))
        ]
    )
    assert torch.allclose(
        outer_gradient(learner, episode), gradient, rtol=1e-10
    )
    parts = episode.support_x, episode.support_y, episode.query_x
    assert torch.equal(
        learner(*parts), mb.MAML(net, inner_lr=0.2, inner_steps=2)(*parts)
    )


@pytest.mark.parametrize(
    "relative",
    [mb.ANIL, mb.MetaSGD, mb.Reptile, mb.ImplicitMAML, mb.MAMLPlusPlus],
)
def test_each_learns_sine_waves(relative):
    torch.manual_seed(0)
    options = {
        "inner_steps": {mb.Reptile: 5, mb.ImplicitMAML: 10}.get(relative, 1)
    }
    learner = relative(
        mb.MLP(1, 1), inner_lr=0.01, loss_fn=F.mse_loss, **options
    )
    test = mb.Sinusoids(shot=10, query=30, seed=1)
    before = mb.evaluate(learner, test, episodes=100)
    optimizer = (
        torch.optim.SGD(learner.parameters(), lr=0.5)
        if relative is mb.Reptile
        else None
    )
    mb.train(
        learner,
        mb.Sinusoids(shot=10, seed=0),
        200,
        tasks_per_batch=8,
        lr=5e-3,
        optimizer=optimizer,
    )
    after = mb.evaluate(learner, test, episodes=100)
    gain = before.scores - after.scores  # on the same tasks
    assert gain.mean() > 4 * gain.std() / len(gain) ** 0.5


def test_the_family_takes_its_first_arguments_in_one_order():
    for relative in (
        mb.MAML,
        mb.ANIL,
        mb.MetaSGD,
        mb.Reptile,
        mb.MAMLPlusPlus,
        mb.ImplicitMAML,
        mb.JointTraining,
    ):
        learner = relative(curved_net(), 0.25, 4)
        assert (learner.inner_lr, learner.inner_steps) == (0.25, 4)


def test_anil_of_a_single_layer_is_maml_and_its_head_is_one_of_its_settings():
    layer, episode = nn.Linear(2, 3).double(), task_batch()
    assert torch.equal(
        outer_gradient(mb.ANIL(layer, 0.5), episode),
        outer_gradient(mb.MAML(layer, 0.5), episode),
    )
    assert repr(mb.ANIL(curved_net(), head="0")) != repr(
        mb.ANIL(curved_net(), head="2")
    )


def test_joint_training_names_a_head_of_another_width():
    with pytest.raises(
        ValueError, match="4 outputs but the tasks have 3 classes"
    ):
        mb.JointTraining(nn.Linear(2, 4).double()).backward(task_batch())


@pytest.mark.parametrize("relative", [mb.Reptile, mb.ImplicitMAML])
@pytest.mark.parametrize("option", ["compiled", "first_order"])
def test_options_without_a_meaning_are_no_arguments(relative, option):
    with pytest.raises(TypeError, match=option):
        relative(curved_net(), **{option: True})


@pytest.mark.parametrize("relative", [mb.Reptile, mb.ImplicitMAML])
def test_a_method_whose_update_is_no_gradient_of_a_loss_says_what_to_call(
    relative,
):
    learner, episode = relative(curved_net(), 0.1, 3), task_batch()
    with pytest.raises(NotImplementedError, match=r"call\s+backward"):
        learner.loss(episode)
    assert learner.backward(episode) > 0


def test_reptile_under_adam_says_that_it_is_not_the_papers_update():
    learner = mb.Reptile(mb.MLP(1, 1), loss_fn=F.mse_loss)
    with pytest.warns(UserWarning, match=r"not the paper's.*SGD"):
        mb.train(learner, mb.Sinusoids(), 1, 2, progress=False)
    sgd = torch.optim.SGD(learner.parameters(), lr=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mb.train(learner, mb.Sinusoids(), 1, 2, optimizer=sgd, progress=False)
