# SPDX-License-Identifier: MIT
"""Honest intervals."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import small_conv
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader, Dataset

import metabook as mb
from metabook.training.scores import Score


def fresh(kind="protonet"):
    torch.manual_seed(3)
    if kind == "protonet":
        return mb.ProtoNet(
            nn.Sequential(small_conv(norm="batch"), nn.Dropout(0.2))
        )
    return mb.MAML(mb.MLP(1, 1, hidden=(8,)), inner_lr=0.01, loss_fn=F.mse_loss)


def test_predictions_that_are_not_finite_are_no_score(tasks):
    learner = fresh()
    next(learner.parameters()).data.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="is not finite"):
        mb.evaluate(learner, tasks, episodes=2)


def test_the_interval_is_the_t_interval_over_episodes():
    scores = np.array([0.2, 0.4, 0.9, 0.6])
    score = Score(scores, "accuracy", True, False)
    low, high = stats.t.interval(
        0.95, 3, loc=scores.mean(), scale=stats.sem(scores)
    )
    assert score.ci95 == pytest.approx((high - low) / 2, rel=1e-9)
    assert Score(scores[:1], "accuracy", True, False).ci95 == math.inf


def test_the_interval_covers_the_truth_in_95_of_100_cases():
    rng = np.random.default_rng(0)
    covered = 0
    # 5-way, 15 queries a class, tasks of unequal difficulty around 80 %
    for _ in range(2000):
        scores = rng.binomial(75, np.clip(rng.normal(0.8, 0.08, 30), 0, 1)) / 75
        score = Score(scores, "accuracy", True, False)
        covered += abs(score.mean - 0.8) <= score.ci95
    assert 0.93 < covered / 2000 < 0.97


@pytest.mark.parametrize("batch", [1, 7, 50])
@pytest.mark.parametrize("norm", ["batch", "batch_stats"])
def test_the_batch_of_an_evaluation_does_not_change_its_scores(
    tasks, batch, norm
):
    learner = mb.ProtoNet(small_conv(norm=norm))
    expected = mb.evaluate(learner, tasks, episodes=20, batch=8).scores
    assert np.array_equal(
        mb.evaluate(learner, tasks, episodes=20, batch=batch).scores, expected
    )


def test_the_unit_of_measurement_is_the_episode_and_not_the_query(tasks):
    """Queries of one episode share its classes and its support set: pooled,
    their interval would be too narrow.
    """
    learner = mb.ProtoNet(mb.Conv4(width=8)).eval()
    score, accuracies = mb.evaluate(learner, tasks, episodes=60), []
    with torch.no_grad():
        for i in range(60):
            episode = tasks.sample(1, start=i)
            labels = learner.predict(
                episode.support_x, episode.support_y, episode.query_x
            )
            accuracies.append(
                (labels == episode.query_y).double().mean().item()
            )
    assert score.scores == pytest.approx(accuracies)
    assert score.n == 60
    assert score.ci95 == pytest.approx(
        stats.t.ppf(0.975, 59) * np.std(accuracies, ddof=1) / 60**0.5
    )


def test_two_workers_see_the_episodes_that_one_sees_and_none_twice(images):
    episodes = _Numbered(
        mb.FewShotTasks(images, way=5, shot=1, query=2, seed=3)
    )
    alone, together = (
        list(DataLoader(episodes, batch_size=None, num_workers=n))
        for n in (0, 2)
    )
    assert len(together) == len(episodes)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert len({x.numpy().tobytes() for x in together}) == len(episodes)


class _Numbered(Dataset):
    """Episodes by their numbers, as a loader with workers wants them."""

    def __init__(self, tasks):
        self.tasks = tasks

    def __len__(self):
        return 24

    def __getitem__(self, i):
        return self.tasks.sample(1, start=i).support_x


def test_an_evaluation_in_parts_is_the_whole(tasks):
    learner = mb.ProtoNet(small_conv(norm="batch"))
    parts = [
        mb.evaluate(learner, tasks, episodes=10, start=start).scores
        for start in (5, 15, 25)
    ]
    assert (
        np.concatenate(parts).tolist()
        == mb.evaluate(learner, tasks, episodes=30, start=5).scores.tolist()
    )


def test_a_score_says_how_it_was_measured(tasks):
    text = repr(mb.evaluate(mb.MAML(small_conv(out=5)), tasks, episodes=4))
    assert "over 4 episodes, transductive" in text
    assert "%" in text


def test_empty_evaluations_are_refused(tasks):
    with pytest.raises(ValueError, match="at least 1"):
        mb.evaluate(fresh(), tasks, episodes=0)


def test_a_score_after_every_inner_step_equals_the_score_with_so_many_steps():
    learner = mb.MAML(mb.MLP(1, 1), inner_lr=0.01, loss_fn=F.mse_loss)
    waves = mb.Sinusoids(shot=5, query=7, seed=3)
    by_step = mb.evaluate_steps(learner, waves, steps=4, episodes=21)
    assert len(by_step) == 5
    for k, score in enumerate(by_step[1:], start=1):
        learner.inner_steps = k
        assert np.allclose(
            score.scores,
            mb.evaluate(learner, waves, episodes=21).scores,
            rtol=1e-5,
        )
    with pytest.raises(ValueError, match="ProtoNet takes no inner steps"):
        mb.evaluate_steps(mb.ProtoNet(mb.Conv4()), waves)


def test_accuracy_and_loss_can_both_be_asked_for(tasks):
    learner = mb.MAML(mb.MLP(784, 5), inner_lr=0.1)
    accuracy, loss = (
        mb.evaluate_steps(learner, tasks, 2, episodes=10, metric=m)
        for m in ("accuracy", "loss")
    )
    assert (accuracy[1].metric, loss[1].metric) == ("accuracy", "cross_entropy")
    assert accuracy[1].higher_is_better
    assert not loss[1].higher_is_better
    with pytest.raises(ValueError, match="choose 'accuracy', 'loss', or a fun"):
        mb.evaluate(learner, tasks, episodes=2, metric="f1")


def test_a_comparison_is_paired_and_sharper_than_two_scores(tasks):
    torch.manual_seed(0)
    learners = mb.ProtoNet(mb.Conv4(width=8)), mb.ProtoNet(mb.Conv4(width=8))
    result = mb.compare(*learners, tasks, episodes=120)
    scores = [
        mb.evaluate(learner, tasks, episodes=120).scores for learner in learners
    ]
    interval = stats.ttest_rel(*scores).confidence_interval()
    assert result.mean == pytest.approx((interval.low + interval.high) / 2)
    assert result.ci95 == pytest.approx((interval.high - interval.low) / 2)
    assert (
        result.ci95
        < 0.9 * (result.first.ci95**2 + result.second.ci95**2) ** 0.5
    )
    assert (
        mb.compare(
            learners[0], learners[0], tasks, episodes=20
        ).differences.tolist()
        == [0] * 20
    )


def test_what_is_measured_differently_is_not_compared():
    waves = mb.Sinusoids()
    a = mb.MAML(mb.MLP(1, 1), loss_fn=F.mse_loss)
    b = mb.MAML(mb.MLP(1, 1), loss_fn=F.l1_loss)
    with pytest.raises(ValueError, match="by mse_loss and by l1_loss"):
        mb.compare(a, b, waves, episodes=4)
