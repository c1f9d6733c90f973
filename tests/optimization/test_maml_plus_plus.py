# SPDX-License-Identifier: MIT
"""MAML++: every switch does what it says; with all of them off it is MAML."""

import copy

import pytest
import torch
from gradients import assert_exact, curved_net, outer_gradient, task_batch
from torch import nn

import metabook as mb


def normalised_net():
    return nn.Sequential(
        nn.Linear(2, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3)
    ).double()


OFF = {"per_step_lr": False, "per_step_norm": False}


def test_with_every_switch_off_it_is_maml():
    net, episode = normalised_net(), task_batch()
    a = mb.MAMLPlusPlus(net, inner_lr=0.3, inner_steps=3, **OFF)
    assert torch.equal(
        outer_gradient(a, episode),
        outer_gradient(mb.MAML(net, 0.3, 3), episode),
    )


@pytest.mark.parametrize(
    "switch",
    [
        {"per_step_lr": True},
        {"per_step_norm": True},
        {"multi_step_until": 10},
        {"per_step_lr": True, "per_step_norm": True, "multi_step_until": 7},
    ],
)
@pytest.mark.parametrize("vectorized", [False, True])
def test_the_outer_gradient_agrees_with_central_differences_under_every_switch(
    switch, vectorized
):
    learner = mb.MAMLPlusPlus(
        normalised_net(), 0.3, 3, vectorized=vectorized, **(OFF | switch)
    )
    for p in learner.norm_steps:
        nn.init.normal_(p, std=0.1)  # steps that differ
    assert_exact(learner, task_batch())


def test_learned_rates_differ_by_step_and_start_at_the_given_one():
    learner, episode = (
        mb.MAMLPlusPlus(curved_net(), inner_lr=0.3, inner_steps=3),
        task_batch(),
    )
    assert torch.equal(
        learner.loss(episode), mb.MAML(learner.model, 0.3, 3).loss(episode)
    )
    learner.backward(episode)
    assert all(
        r.grad.shape == (3,) and r.grad.unique().numel() == 3
        for r in learner.step_sizes
    )


def test_a_test_with_more_steps_repeats_the_last_rate():
    learner, episode = (
        mb.MAMLPlusPlus(curved_net(), inner_lr=0.3, inner_steps=2),
        task_batch(),
    )
    for r in learner.step_sizes:
        r.data = torch.tensor([0.0, 0.2], dtype=torch.float64)
    plain = mb.MAML(learner.model, inner_lr=0.2)
    parts = episode.support_x, episode.support_y, episode.query_x
    assert torch.allclose(
        learner(*parts, steps=5), plain(*parts, steps=4), rtol=1e-12
    )


def test_every_step_has_its_own_normalisation_and_the_inner_loop_no_part():
    learner, episode = (
        mb.MAMLPlusPlus(normalised_net(), inner_steps=3),
        task_batch(),
    )
    assert not {"1.weight", "1.bias"} & set(learner.adapted())
    learner.backward(episode)
    assert all(
        p.grad.shape[0] == 3 and p.grad.flatten(1).norm(dim=1).min() > 0
        for p in learner.norm_steps
    )


@pytest.mark.parametrize("until", [1, 8])
def test_step_weights_sum_to_one_and_end_at_the_last_step_alone(until):
    learner = mb.MAMLPlusPlus(
        curved_net(), inner_steps=4, multi_step_until=until
    )
    for i in range(2 * until):
        learner.iteration.fill_(i)
        weights = learner.step_weights()
        assert sum(weights) == pytest.approx(1, abs=1e-12)
        assert weights == sorted(weights)
        if i == 0:
            assert weights == [0.25] * 4
        if i >= until:
            assert weights == [0, 0, 0, 1]


def test_the_multi_step_loss_is_the_weighted_mean_of_the_losses_of_all_steps():
    learner, episode = (
        mb.MAMLPlusPlus(curved_net(), 0.3, 3, multi_step_until=4, **OFF),
        task_batch(),
    )
    learner.iteration.fill_(1)
    after = [mb.MAML(learner.model, 0.3, k).loss(episode) for k in (1, 2, 3)]
    expected = sum(
        w * loss for w, loss in zip([0.25, 0.25, 0.5], after, strict=True)
    )
    assert torch.allclose(learner.loss(episode), expected, rtol=1e-12)


def test_second_derivatives_come_in_when_their_time_has_come():
    net, episode = curved_net(), task_batch()
    learner = mb.MAMLPlusPlus(net, 0.3, 2, first_order_until=2, **OFF)
    first, second = (
        outer_gradient(mb.MAML(net, 0.3, 2, first_order=f), episode)
        for f in (True, False)
    )
    # backward counts iterations
    seen = [outer_gradient(learner, episode) for _ in range(3)]
    assert torch.equal(seen[0], first)
    assert torch.equal(seen[1], first)
    assert torch.equal(seen[2], second)


def test_a_resumed_run_knows_its_age(tmp_path):
    def run(iterations, folder):
        torch.manual_seed(0)
        learner = mb.MAMLPlusPlus(
            mb.MLP(1, 1),
            0.01,
            2,
            multi_step_until=6,
            loss_fn=nn.functional.mse_loss,
        )
        mb.train(
            learner,
            mb.Sinusoids(),
            iterations,
            tasks_per_batch=2,
            checkpoint=folder,
        )
        return learner.state_dict()

    run(3, tmp_path / "a")
    for x, y in zip(
        run(8, tmp_path / "a").values(),
        run(8, tmp_path / "b").values(),
        strict=True,
    ):
        assert torch.equal(x, y)


def test_what_changes_with_the_iteration_cannot_be_compiled():
    with pytest.raises(ValueError, match="use compiled=False"):
        mb.MAMLPlusPlus(mb.MLP(1, 1), multi_step_until=5, compiled=True)


def test_threads_change_no_bit():
    net, episode = normalised_net(), task_batch(tasks=5)
    a, b = (
        outer_gradient(
            mb.MAMLPlusPlus(
                copy.deepcopy(net),
                0.3,
                2,
                multi_step_until=9,
                vectorized=False,
                threads=n,
            ),
            episode,
        )
        for n in (1, 2)
    )
    assert torch.equal(a, b)
