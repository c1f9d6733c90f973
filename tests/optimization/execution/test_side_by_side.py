# SPDX-License-Identifier: MIT
"""Tasks side by side compute what tasks one after another compute; so does the
compiled program.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import small_conv
from gradients import assert_exact, curved_net, outer_gradient, task_batch
from torch import nn

import metabook as mb
from metabook.models.norms import SupportNorm
from metabook.optimization.execution.side_by_side import perceptron_layers

MODELS = {
    "perceptron": lambda: mb.MLP(784, 5, hidden=(7,)),
    "bare linear layer": lambda: nn.Sequential(
        nn.Flatten(), nn.Sequential(nn.Linear(784, 5, bias=False))
    ),
    "batch statistics": lambda: small_conv(out=5),
    "strided": lambda: small_conv(out=5, strided=True),
    "support statistics": lambda: small_conv(out=5, norm="support"),
    "group norm": lambda: small_conv(out=5, norm="group"),
    "no norm": lambda: small_conv(out=5, norm="none"),
}


@pytest.fixture
def episode(tasks):
    return tasks.sample(3).to(torch.float64)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize(
    "relative",
    [
        mb.MAML,
        mb.ANIL,
        mb.MetaSGD,
        mb.Reptile,
        mb.MAMLPlusPlus,
        mb.JointTraining,
    ],
)
@pytest.mark.parametrize("model", MODELS)
def test_both_ways_give_the_same_loss_predictions_and_outer_gradient(
    model, relative, first_order, episode
):
    net = MODELS[model]().double()
    options = {"inner_lr": 0.3, "inner_steps": 2}
    if relative is not mb.Reptile:
        options["first_order"] = first_order
    together, in_turn = (
        relative(copy.deepcopy(net), vectorized=v, **options)
        for v in (True, False)
    )
    parts = episode.support_x, episode.support_y, episode.query_x
    assert torch.allclose(
        together(*parts), in_turn(*parts), rtol=1e-9, atol=1e-12
    )
    losses = together.backward(episode), in_turn.backward(episode)
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    a, b = outer_gradient(together, episode), outer_gradient(in_turn, episode)
    assert (a - b).norm() < 1e-9 * b.norm()


def test_attention_side_by_side(episode):
    from learners import Attentive

    net = Attentive(5).double()
    a, b = (
        outer_gradient(mb.MAML(net, inner_lr=0.5, vectorized=v), episode)
        for v in (True, False)
    )
    assert (a - b).norm() < 1e-9 * b.norm()


def test_more_tasks_than_fit_side_by_side_are_taken_in_parts():
    net, episode = curved_net(), task_batch(tasks=70)
    a, b = (
        outer_gradient(mb.MAML(net, inner_lr=0.5, vectorized=v), episode)
        for v in (True, False)
    )
    assert torch.allclose(a, b, rtol=1e-9)


@pytest.mark.parametrize(
    "loss_fn",
    [F.mse_loss, F.l1_loss, lambda p, y: F.mse_loss(p, y, reduction="sum")],
)
def test_any_loss_is_summed_over_the_tasks_alike(loss_fn):
    net, episode = (
        mb.MLP(1, 1).double(),
        mb.Sinusoids().sample(5).to(torch.float64),
    )
    a, b = (
        outer_gradient(
            mb.MAML(net, 1e-3, 2, loss_fn=loss_fn, vectorized=v), episode
        )
        for v in (True, False)
    )
    assert (a - b).norm() < 1e-9 * b.norm()


def test_frozen_weights_are_shared_by_all_tasks():
    net, episode = curved_net(), task_batch()
    net[0].weight.requires_grad_(False)
    net[2].bias.requires_grad_(False)
    a, b = (
        mb.MAML(net, inner_lr=0.5, vectorized=True),
        mb.MAML(net, inner_lr=0.5, vectorized=False),
    )
    for learner in (a, b):
        learner.zero_grad()
        learner.backward(episode)
        learner.gradients = [
            p.grad.clone() for p in net.parameters() if p.requires_grad
        ]
    assert all(
        torch.allclose(x, y, rtol=1e-10)
        for x, y in zip(a.gradients, b.gradients, strict=True)
    )


def test_the_faster_way_is_chosen_by_the_model():
    x = torch.zeros(1, 1)

    def tasks_at_once(model, **options):
        execution = mb.MAML(model, **options).execution
        return execution.tasks_at_once(model, x)

    assert tasks_at_once(mb.MLP(1, 1)) > 1
    assert tasks_at_once(small_conv(out=5)) == 1
    assert tasks_at_once(mb.MLP(1, 1), vectorized=False) == 1


def test_only_plain_layers_in_a_row_count_as_a_perceptron():
    class Twice(nn.Sequential):
        def forward(self, x):
            return super().forward(super().forward(x))

    assert perceptron_layers(mb.MLP(1, 1))
    assert perceptron_layers(nn.Linear(2, 2))
    for other in (
        Twice(nn.Linear(2, 2)),
        nn.Sequential(nn.Linear(2, 2), nn.Dropout()),
        nn.Flatten(0),
        small_conv(),
    ):
        assert perceptron_layers(other) is None


@pytest.mark.parametrize(
    ("layer", "word"), [(nn.Dropout(), "dropout"), (nn.LSTM(2, 2), "recurrent")]
)
def test_what_cannot_stand_side_by_side_is_named(layer, word):
    model = nn.Sequential(nn.Linear(2, 2), layer)
    with pytest.raises(ValueError, match=f"1 is {word}.*use vectorized=False"):
        mb.MAML(model, vectorized=True)
    mb.MAML(model)


def test_the_compiled_program_has_the_same_gradient_and_follows_the_weights():
    net = mb.MLP(1, 1, hidden=(5,))
    plain = mb.MetaSGD(
        copy.deepcopy(net), inner_lr=0.01, inner_steps=2, loss_fn=F.mse_loss
    )
    compiled = mb.MetaSGD(
        copy.deepcopy(net),
        inner_lr=0.01,
        inner_steps=2,
        loss_fn=F.mse_loss,
        compiled=True,
    )
    for i in range(3):
        episode = mb.Sinusoids().sample(4, start=4 * i)
        for learner in (plain, compiled):
            learner.zero_grad()
            learner.value = learner.backward(episode)
            learner.backward(episode)  # adds
            learner.gradient = torch.cat(
                [p.grad.flatten() for p in learner.parameters()]
            )
            with torch.no_grad():
                for p in learner.parameters():
                    p -= 1e-3 * p.grad
        assert compiled.value == pytest.approx(plain.value, rel=1e-5)
        assert torch.allclose(
            compiled.gradient, plain.gradient, rtol=1e-4, atol=1e-6
        )
    assert len(compiled.execution.programs.made) == 1
    assert copy.deepcopy(compiled).execution.programs.made == {}


def test_the_query_pass_in_half_precision_keeps_the_direction_of_the_gradient(
    tasks,
):
    """And only the query pass: the inner loop gives the same fast weights to
    the last bit.
    """
    torch.manual_seed(0)
    net, episode = small_conv(out=5), tasks.sample(4)
    whole, half = (
        mb.MAML(net, inner_lr=0.1),
        mb.MAML(net, inner_lr=0.1, query_dtype=torch.bfloat16),
    )
    a, b = outer_gradient(whole, episode), outer_gradient(half, episode)
    assert not torch.equal(a, b)
    assert F.cosine_similarity(a, b, dim=0) > 0.99
    one, two = (
        learner.adapt(episode.support_x, episode.support_y).weights
        for learner in (whole, half)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


def repeated():
    act, layer = nn.Tanh(), nn.Linear(6, 6)
    return nn.Sequential(
        nn.Linear(2, 6), act, layer, act, layer, nn.Linear(6, 3)
    ).double()


def tied():
    net = nn.Sequential(
        nn.Linear(2, 6),
        nn.Tanh(),
        nn.Linear(6, 6),
        nn.Tanh(),
        nn.Linear(6, 6),
        nn.Linear(6, 3),
    ).double()
    net[4].weight = net[2].weight
    return net


def hooked():
    net = curved_net()
    net[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return net


@pytest.mark.parametrize("make", [repeated, tied, hooked])
def test_layers_used_twice_tied_or_listened_to_are_computed_as_before(make):
    torch.manual_seed(0)
    net, episode = make(), task_batch(tasks=3)
    assert_exact(mb.MAML(net, 0.3, 2, vectorized=False), episode)
    assert_exact(mb.MAML(net, 0.3, 2), episode)
    parts = episode.support_x, episode.support_y, episode.query_x
    a, b = (mb.MAML(net, 0.3, vectorized=v)(*parts) for v in (True, False))
    assert torch.allclose(a, b, rtol=1e-9)


def test_a_layer_with_two_names_keeps_its_parameters():
    net, episode = repeated(), task_batch()
    before = dict(net.named_parameters())
    mb.MAML(net, 0.3, vectorized=False).backward(episode)
    assert all(p is before[name] for name, p in net.named_parameters())
    assert len(list(net.parameters())) == len(before)


@pytest.mark.parametrize(
    "make",
    [
        lambda net: mb.MAML(net, 0.1, threads=2),
        lambda net: mb.Reptile(net, 0.1, 2),
        lambda net: mb.ImplicitMAML(net, 0.1, 2),
        lambda net: mb.MAML(net, 0.1, compiled=True),
    ],
)
def test_a_fused_optimiser_steps_as_a_plain_one(make, tasks):
    """It reads parameter and gradient as flat arrays: both must lie in memory
    in the same order.
    """
    episode = tasks.sample(2)
    stepped = []
    for fused in (True, False):
        torch.manual_seed(0)
        learner = make(mb.Conv4(out=5, width=8, norm="none", strided=True))
        optimizer = torch.optim.Adam(learner.parameters(), lr=0.01, fused=fused)
        learner.backward(episode)
        assert all(p.grad.stride() == p.stride() for p in learner.parameters())
        optimizer.step()
        stepped.append(
            torch.cat([p.detach().flatten() for p in learner.parameters()])
        )
    assert torch.allclose(*stepped, atol=1e-5)


def test_a_compiled_program_notices_another_loss_and_other_frozen_weights():
    net, episode = mb.MLP(1, 1, hidden=(4,)), mb.Sinusoids().sample(3)
    net[1].bias.requires_grad_(False)
    compiled = mb.MAML(net, 0.01, loss_fn=F.mse_loss, compiled=True)
    for change in (
        lambda: None,
        lambda: setattr(compiled, "loss_fn", F.l1_loss),
        lambda: net[1].bias.data.fill_(0.7),
    ):
        change()
        compiled.zero_grad()
        compiled.backward(episode)
        got = [p.grad.clone() for p in net.parameters() if p.requires_grad]
        net.zero_grad()
        mb.MAML(net, 0.01, loss_fn=compiled.loss_fn).backward(episode)
        expected = [p.grad for p in net.parameters() if p.requires_grad]
        assert all(
            torch.allclose(a, b, rtol=1e-4, atol=1e-6)
            for a, b in zip(got, expected, strict=True)
        )


def test_one_core_does_it_all_where_a_copy_would_not_do(tasks):
    """Autocast belongs to a thread, a copy loses hooks, and a module that keeps
    an activation cannot be copied.
    """
    net, episode = small_conv(out=5, norm="none"), tasks.sample(2)
    with torch.autocast("cpu", torch.bfloat16):
        a, b = (
            outer_gradient(mb.JointTraining(net, 0.1, threads=n), episode)
            for n in (1, 2)
        )
    assert torch.equal(a, b)
    net.kept = net(episode.query_x[0])
    mb.MAML(net, 0.1, threads=2).backward(episode)
    del net.kept
    net.head.weight.register_hook(torch.zeros_like)
    net.zero_grad()
    mb.MAML(net, 0.1, threads=2).backward(episode)
    assert not net.head.weight.grad.any()


def test_support_norm_in_two_places_is_refused(episode):
    norm = SupportNorm(4)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 4), norm, nn.Tanh(), norm, nn.Linear(4, 5)
    ).double()
    with pytest.raises(ValueError, match="2 is used twice in one pass"):
        mb.MAML(net).loss(episode)


def test_a_model_that_vmap_cannot_run_is_told_the_way_out(episode):
    class Chooses(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(784, 5)

        def forward(self, x):
            scores = self.layer(x.flatten(1))
            return scores if scores.sum() > 0 else -scores

    with pytest.raises(RuntimeError, match="use vectorized=False"):
        mb.MAML(Chooses().double(), vectorized=True).loss(episode)


def test_what_would_not_be_compiled_is_refused():
    class Nothing(mb.MAML):
        def add_gradient(self, part, way, tasks):
            return 0.0

    learner = Nothing(mb.MLP(1, 1), loss_fn=F.mse_loss, compiled=True)
    with pytest.raises(ValueError, match="add_gradient of its own"):
        learner.backward(mb.Sinusoids().sample(2))
