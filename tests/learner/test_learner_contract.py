# SPDX-License-Identifier: MIT
"""What holds for every learner (`metabook.testing` says what)."""

import copy
from dataclasses import replace

import pytest
import torch
from learners import BASELINES, LEARNERS, NETWORKS, OF_A_NETWORK

import metabook as mb
from metabook.metric.baselines import NotMetaLearned
from metabook.testing import check_learner
from metabook.training.evaluate import placed


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


# what cannot be, and says so
EXCEPTIONS = {
    ("maml, vectorized", "LSTM"): "use vectorized=False",
    ("maml, vectorized", "transformer"): "use vectorized=False",  # dropout
    # of dropout each example has a random number of its own, by position
    ("full fine-tuning", "transformer"): "depends on the order of the support",
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", OF_A_NETWORK)
def test_a_learner_keeps_the_contract_with_any_network(name, network, images):
    """Of five outputs: features to compare, or scores of five classes."""
    tasks = mb.FewShotTasks(images, way=5, shot=2, query=2, seed=0)

    def check():
        torch.manual_seed(0)
        learner = OF_A_NETWORK[name](NETWORKS[network](5))
        check_learner(learner, placed(tasks.sample(2), learner))

    if (name, network) not in EXCEPTIONS:
        check()
        return
    with pytest.raises(
        (AssertionError, ValueError), match=EXCEPTIONS[name, network]
    ):
        check()


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
    foreign = replace(episode, query_y=wrong)
    untrained = isinstance(learner, NotMetaLearned)
    judge = learner.loss if untrained else learner.backward
    with pytest.raises(
        ValueError,
        match="query 4 of task 1 has label 9, which is not in its support set",
    ):
        judge(foreign)


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
