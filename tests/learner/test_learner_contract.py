# SPDX-License-Identifier: MIT
"""What holds for every learner (`metabook.testing` says what)."""

import copy

import pytest
import torch
from learners import BASELINES, LEARNERS

import metabook as mb
from metabook.testing import check_learner


@pytest.fixture(params=LEARNERS | BASELINES)
def learner(request):
    torch.manual_seed(0)
    return (LEARNERS | BASELINES)[request.param]().double().eval()


@pytest.fixture
def episode(tasks):
    return tasks.sample(3).to(torch.float64)


def answer(learner, episode, **changes):
    parts = {
        "support_x": episode.support_x,
        "support_y": episode.support_y,
        "query_x": episode.query_x,
    } | changes
    with torch.no_grad():
        return learner(**parts)


def test_a_learner_keeps_the_contract(learner, episode):
    check_learner(learner, episode)


def test_an_evaluation_leaves_the_modes_and_the_random_state(learner, tasks):
    next(learner.children()).train()  # a mixture of modes, to be found again
    state = copy.deepcopy(learner.state_dict())
    modes = [m.training for m in learner.modules()]
    rng = torch.get_rng_state()
    mb.evaluate(learner, _Double(tasks), episodes=4)
    assert [m.training for m in learner.modules()] == modes
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            state.values(), learner.state_dict().values(), strict=True
        )
    )
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
    with pytest.raises(
        ValueError,
        match="query 4 of task 1 has label 9, which is not in its support set",
    ):
        learner.backward(
            mb.Episode(
                episode.support_x, episode.support_y, episode.query_x, wrong
            )
        )


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("support_x", lambda x: x[:, 1:], "must begin with the same"),
        ("query_x", lambda x: x[1:], "only the second size"),
        ("query_x", lambda x: x[..., 1:], "only the second size"),
        (
            "support_x",
            lambda x: x[0],
            "must begin with the same|support_x\\[None\\]",
        ),
        ("support_y", lambda y: y[0], "For a single task add the first one"),
        (
            "support_x",
            lambda x: (255 * x).to(torch.uint8),
            r"images are floats in \[0, 1\]: support_x.float\(\) / 255",
        ),
        ("support_y", lambda y: y % 2 == 0, "class labels are integers"),
        (
            "query_x",
            lambda x: x.float(),
            "query_x is torch.float32 but the weights are torch.float64",
        ),
        (
            "support_x",
            lambda x: x.numpy(),
            r"support_x is a ndarray; learners take tensors",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named_before_torch_fails(
    learner, episode, part, change, message
):
    with pytest.raises(ValueError, match=message):
        answer(learner, episode, **{part: change(getattr(episode, part))})


def test_a_checkpoint_restores_the_answers(learner, episode, tmp_path):
    torch.save(learner.state_dict(), tmp_path / "w.pt")
    expected = answer(learner, episode)
    for p in learner.parameters():
        p.data.add_(1.0)
    learner.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=True))
    assert torch.equal(answer(learner, episode), expected)
