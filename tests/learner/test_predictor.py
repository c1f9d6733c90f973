# SPDX-License-Identifier: MIT
"""Adapt once, ask often: for every learner what calling it gives."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from conftest import small_conv
from learners import BASELINES, LEARNERS

import metabook as mb

EVERY = LEARNERS | BASELINES


@pytest.fixture
def episode(tasks):
    return tasks.sample(3)


def parts(episode):
    return episode.support_x, episode.support_y, episode.query_x


@pytest.mark.parametrize("mode", ["evaluation", "training"])
@pytest.mark.parametrize("name", EVERY)
def test_a_predictor_answers_as_the_learner_does(name, mode, episode):
    learner = EVERY[name]().train(mode == "training")
    if "dropout" in name and mode == "training":
        pytest.skip("random in training, by intention")
    x, y, query_x = parts(episode)
    before = {k: w.clone() for k, w in learner.state_dict().items()}
    with torch.no_grad():
        expected = learner(x, y, query_x)
        learner.load_state_dict(before)  # running statistics of training
        predictor = learner.adapt(x, y)
        assert torch.allclose(predictor(query_x), expected, atol=1e-5)
        if mode == "evaluation":
            again = predictor(query_x)
            assert torch.allclose(again, expected, atol=1e-5)
            assert torch.equal(
                predictor.predict(query_x), learner.predict(x, y, query_x)
            )
    assert len(predictor) == 3


@pytest.mark.parametrize("name", EVERY)
def test_a_predictor_of_an_inductive_learner_takes_queries_one_by_one(
    name, episode
):
    learner = EVERY[name]().eval()
    if learner.transductive:
        pytest.skip("transductive")
    x, y, query_x = parts(episode)
    with torch.no_grad():
        predictor = learner.adapt(x, y)
        one = torch.cat([predictor(q) for q in query_x.split(1, dim=1)], dim=1)
        assert torch.allclose(one, predictor(query_x), atol=1e-4)


def test_prototypes_are_what_a_prototypical_network_keeps(episode):
    learner = mb.ProtoNet(small_conv(norm="batch")).eval()
    x, y, _ = parts(episode)
    state = learner.adapt(x, y).state
    assert state["support_z"].shape == (3, 5, 4)
    expected = mb.compute_prototypes(learner.embed(x), y)
    assert torch.allclose(state["support_z"], expected)


def test_a_trained_head_is_kept_and_not_trained_again(episode, monkeypatch):
    learner = mb.FineTuning(small_conv(norm="batch"), steps=5).eval()
    x, y, query_x = parts(episode)
    predictor = learner.adapt(x, y)
    first = predictor(query_x)
    monkeypatch.setattr(mb.FineTuning, "heads", pytest.fail)
    assert torch.equal(predictor(query_x), first)


def test_the_graph_is_kept_where_the_callers_gradients_are_on(episode):
    learner = mb.MAML(small_conv(out=5), 0.1)
    x, y, query_x = parts(episode)
    loss = F.cross_entropy(
        learner.adapt(x, y)(query_x).flatten(0, 1), episode.query_y.flatten()
    )
    (whole,) = torch.autograd.grad(loss, [learner.model.head.weight])
    learner.backward(episode)
    assert torch.allclose(whole, learner.model.head.weight.grad, atol=1e-6)


def test_labels_and_names_come_back(episode):
    x, y, query_x = parts(episode)
    learner = mb.ProtoNet(small_conv(norm="batch")).eval()
    plain = learner.adapt(x, y)
    predictor = learner.adapt(x, 10 * y + 3, class_names=[*"abcde"])
    labels = predictor.predict(query_x)
    assert torch.equal(labels, 10 * plain.predict(query_x) + 3)
    names = predictor.predict_names(query_x)
    expected = [
        ["abcde"[(j - 3) // 10] for j in row] for row in labels.tolist()
    ]
    assert names == expected
    each = learner.adapt(x, y, class_names=[[*"abcde"], [*"fghij"], [*"klmno"]])
    assert set(each.predict_names(query_x)[2]) <= set("klmno")
    with pytest.raises(ValueError, match=r"have no names.*class_names="):
        plain.predict_names(query_x)
    with pytest.raises(ValueError, match="3 tasks of 5 classes"):
        learner.adapt(x, y, class_names=[*"abcd"])


def test_regression_has_predictions_and_no_names():
    learner = mb.MAML(mb.MLP(1, 1), loss_fn=F.mse_loss)
    waves = mb.Sinusoids(shot=5, query=4).sample(2)
    predictor = learner.adapt(waves.support_x, waves.support_y, steps=2)
    predictions = predictor.predict(waves.query_x)
    assert torch.equal(predictions, learner(*parts(waves), steps=2))
    with pytest.raises(ValueError, match="leave class_names out"):
        learner.adapt(waves.support_x, waves.support_y, class_names="a")


@pytest.mark.parametrize(
    ("harm", "match"),
    [
        (lambda q: q.numpy(), "torch.as_tensor"),
        (lambda q: q[:1], r"must be \(3, queries, 1, 28, 28\)"),
        (lambda q: q[0, 0], r"query_x\[None, None\]"),
        (lambda q: q[..., :20], "must be"),
        (lambda q: q.double(), "float64 but the weights are"),
    ],
)
def test_queries_that_do_not_fit_are_named(harm, match, episode):
    x, y, query_x = parts(episode)
    predictor = mb.ProtoNet(small_conv(norm="batch")).eval().adapt(x, y)
    with pytest.raises(ValueError, match=match):
        predictor(harm(query_x))


@pytest.mark.parametrize("name", ["protonet", "maml"])
def test_scores_that_are_not_finite_are_no_prediction(name, episode):
    learner = LEARNERS[name]().eval()
    x, y, query_x = parts(episode)
    query_x = query_x.clone()
    query_x[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        learner.adapt(x, y).predict(query_x)
    with pytest.raises(FloatingPointError, match="not finite"):
        learner.predict(x, y, query_x)


def test_a_transductive_learner_warns_once_of_a_single_query(episode):
    learner = mb.MAML(small_conv(out=5), 0.1)
    x, y, query_x = parts(episode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner.adapt(x, y)(query_x)
    with pytest.warns(UserWarning, match=r"transductive.*norm='support'"):
        learner.adapt(x, y)(query_x[:, :1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner.adapt(x, y)(query_x[:, :1])
    assert "transductive" in repr(learner.adapt(x, y))
    inductive = mb.MAML(small_conv(out=5, norm="support"), 0.1)
    assert "transductive" not in repr(inductive.adapt(x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inductive.adapt(x, y)(query_x[:, :1])


def test_a_moved_predictor_has_a_learner_of_its_own(episode):
    learner = mb.ProtoNet(small_conv(norm="batch")).eval()
    x, y, query_x = parts(episode)
    predictor = learner.adapt(x, y, class_names=[*"abcde"])
    moved = predictor.to("meta")
    assert moved.learner is not learner
    assert {t.device.type for t in moved.state.values()} == {"meta"}
    assert next(moved.learner.parameters()).device.type == "meta"
    assert next(learner.parameters()).device.type == "cpu"
    back = predictor.to("cpu")
    assert torch.equal(back(query_x), predictor(query_x))
    assert back.class_names == predictor.class_names
