# SPDX-License-Identifier: MIT
"""The outer loop, its checkpoints, and honest intervals."""

import inspect
import json
import math
import signal

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


def same(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip(
            a.state_dict().values(), b.state_dict().values(), strict=True
        )
    )


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_resumed_run_ends_with_the_same_bits(tasks, tmp_path, schedule):
    class Stop(Exception):
        pass

    class StopAfter:
        """The same tasks, and a crash before iteration 6."""

        def sample(self, n, start=0):
            if start >= 6 * 2:
                raise Stop
            return tasks.sample(n, start)

    options = {
        "iterations": 10,
        "tasks_per_batch": 2,
        "valid": tasks,
        "valid_episodes": 4,
        "valid_every": 3,
    }
    options |= {"schedule": schedule, "checkpoint_every": 5}
    whole, half = fresh(), fresh()
    torch.manual_seed(11)
    straight = mb.train(whole, tasks, **options)
    torch.manual_seed(11)
    with pytest.raises(Stop):
        mb.train(half, StopAfter(), checkpoint=tmp_path, **options)
    again = fresh()
    torch.manual_seed(99)  # another random state: the checkpoint brings its own
    resumed = mb.train(again, tasks, checkpoint=tmp_path, **options)
    assert same(whole, again)
    assert resumed.losses == straight.losses
    assert resumed.validations == straight.validations


def test_a_finished_run_can_be_loaded_and_lengthened(tasks, tmp_path):
    a, b = fresh(), fresh()
    mb.train(a, tasks, iterations=4, tasks_per_batch=2, checkpoint=tmp_path)
    history = mb.train(
        b, tasks, iterations=4, tasks_per_batch=2, checkpoint=tmp_path
    )
    assert same(a, b)
    assert len(history.losses) == 4
    assert not b.training
    assert (
        len(
            mb.train(
                b, tasks, iterations=6, tasks_per_batch=2, checkpoint=tmp_path
            ).losses
        )
        == 6
    )


def test_a_run_with_validation_can_be_lengthened(tasks, tmp_path):
    for iterations in (2, 4):
        history = mb.train(
            fresh(),
            tasks,
            iterations,
            2,
            valid=tasks,
            valid_episodes=4,
            checkpoint=tmp_path,
        )
    assert [i for i, *_ in history.validations] == [2, 4]


@pytest.mark.parametrize("where", ["backward", "validation"])
def test_ctrl_c_finishes_the_iteration_saves_and_resumes_to_the_same_bits(
    tasks, tmp_path, where
):
    """Pressed where nearly all the time goes, when batch norm and dropout have
    already moved on.
    """
    options = {
        "iterations": 6,
        "tasks_per_batch": 2,
        "valid": tasks,
        "valid_episodes": 4,
        "valid_every": 3,
    }
    straight, stopped, again = fresh(), fresh(), fresh()
    torch.manual_seed(5)
    expected = mb.train(straight, tasks, **options)

    original, calls = stopped.forward, []

    def interrupted(*args):
        calls.append(stopped.training)
        if (where == "backward" and len(calls) == 3) or (
            where == "validation" and not stopped.training and sum(calls) == 3
        ):
            signal.raise_signal(signal.SIGINT)
        return original(*args)

    stopped.forward = interrupted
    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        mb.train(stopped, tasks, checkpoint=tmp_path, **options)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3
    resumed = mb.train(again, tasks, checkpoint=tmp_path, **options)
    assert same(straight, again)
    assert resumed.losses == expected.losses
    assert resumed.validations == expected.validations


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (lambda: (fresh("maml"), mb.Sinusoids(shot=5), {"lr": 5e-4}), "lr"),
        (lambda: (fresh("maml"), mb.Sinusoids(shot=5, seed=1), {}), "tasks"),
        (
            lambda: (
                mb.MAML(fresh("maml").model, inner_lr=0.02, loss_fn=F.mse_loss),
                mb.Sinusoids(shot=5),
                {},
            ),
            "learner",
        ),
        (
            lambda: (
                mb.MAML(fresh("maml").model, inner_lr=0.01, loss_fn=F.l1_loss),
                mb.Sinusoids(shot=5),
                {},
            ),
            "loss",
        ),
        (
            lambda: (
                fresh("maml"),
                mb.Sinusoids(shot=5),
                {"schedule": "cosine"},
            ),
            "schedule",
        ),
    ],
)
def test_another_setting_in_the_same_folder_is_refused_by_name(
    tmp_path, changed, what
):
    mb.train(
        fresh("maml"),
        mb.Sinusoids(shot=5),
        iterations=2,
        tasks_per_batch=2,
        checkpoint=tmp_path,
    )
    learner, tasks, options = changed()
    with pytest.raises(ValueError, match=f"other settings: {what} differ"):
        mb.train(
            learner,
            tasks,
            iterations=4,
            tasks_per_batch=2,
            checkpoint=tmp_path,
            **options,
        )


def test_fewer_iterations_than_the_folder_holds_are_refused(tasks, tmp_path):
    mb.train(
        fresh(), tasks, iterations=3, tasks_per_batch=2, checkpoint=tmp_path
    )
    with pytest.raises(
        ValueError, match="holds 3 iterations already, more than 2"
    ):
        mb.train(
            fresh(), tasks, iterations=2, tasks_per_batch=2, checkpoint=tmp_path
        )


def test_an_unreadable_checkpoint_is_explained(tasks, tmp_path):
    mb.train(
        fresh(), tasks, iterations=2, tasks_per_batch=2, checkpoint=tmp_path
    )
    (tmp_path / "last.pt").write_bytes(b"garbage")
    with pytest.raises(
        ValueError, match=r"last\.pt is not a readable checkpoint"
    ):
        mb.train(
            fresh(), tasks, iterations=4, tasks_per_batch=2, checkpoint=tmp_path
        )


def test_the_log_is_json_lines(tasks, tmp_path):
    history = mb.train(
        fresh(),
        tasks,
        iterations=4,
        tasks_per_batch=2,
        valid=tasks,
        valid_episodes=4,
        valid_every=2,
        checkpoint=tmp_path,
    )
    lines = [
        json.loads(line)
        for line in (tmp_path / "log.jsonl").read_text().splitlines()
    ]
    assert [line["loss"] for line in lines] == history.losses
    assert [line["iteration"] for line in lines if "valid" in line] == [2, 4]
    assert set(torch.load(tmp_path / "best.pt", weights_only=True)) == set(
        fresh().state_dict()
    )


@pytest.mark.parametrize(
    ("kind", "better"), [("accuracy", max), ("error", min)]
)
def test_the_best_validation_is_kept_highest_for_accuracy_lowest_for_errors(
    tasks, kind, better
):
    waves = kind == "error"
    learner = fresh("maml" if waves else "protonet")
    source = mb.Sinusoids(shot=5, seed=0) if waves else tasks
    # far too large: the last weights are not the best
    lr = 0.3 if waves else 0.2
    history = mb.train(
        learner,
        source,
        12,
        2,
        lr=lr,
        valid=source,
        valid_episodes=10,
        valid_every=1,
    )
    means = [mean for _, mean, _ in history.validations]
    assert means[history.best_iteration - 1] == better(means)
    assert mb.evaluate(learner, source, episodes=10).mean == better(means)


def test_no_test_data_can_enter_training():
    assert not any(
        "test" in name for name in inspect.signature(mb.train).parameters
    )


def test_a_loss_that_is_not_finite_stops_with_the_state_of_the_iteration_before(
    tasks,
):
    class Poisoned:
        def sample(self, n, start=0):
            episode = tasks.sample(n, start)
            return (
                mb.Episode(
                    episode.support_x * math.nan,
                    episode.support_y,
                    episode.query_x,
                    episode.query_y,
                )
                if start >= 4
                else episode
            )

    good, learner = fresh(), fresh()
    torch.manual_seed(2)
    mb.train(good, tasks, iterations=2, tasks_per_batch=2)
    torch.manual_seed(2)
    with pytest.raises(
        FloatingPointError, match="the loss is nan at iteration 2"
    ):
        mb.train(learner, Poisoned(), iterations=5, tasks_per_batch=2)
    assert same(learner, good), "weights and running statistics"


def test_predictions_that_are_not_finite_are_no_score(tasks):
    learner = fresh()
    next(learner.parameters()).data.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="is not finite"):
        mb.evaluate(learner, tasks, episodes=2)


def test_the_users_own_optimizer_is_used(tasks):
    learner = fresh()
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.0)
    before = [p.clone() for p in learner.parameters()]
    mb.train(
        learner, tasks, iterations=2, tasks_per_batch=1, optimizer=optimizer
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(before, learner.parameters(), strict=True)
    )
    mb.train(
        learner,
        tasks,
        iterations=2,
        tasks_per_batch=1,
        optimizer=torch.optim.SGD(learner.parameters(), lr=0.5),
        schedule="cosine",
    )
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.5)
    mb.train(
        learner,
        tasks,
        iterations=2,
        tasks_per_batch=1,
        optimizer=optimizer,
        schedule="cosine",
    )
    assert optimizer.param_groups[0]["lr"] == 0.5, (
        "the schedule gives the step size back"
    )


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


def test_unknown_schedules_and_empty_evaluations_are_refused(tasks):
    with pytest.raises(ValueError, match="'constant' or 'cosine'"):
        mb.train(fresh(), tasks, schedule="linear")
    with pytest.raises(ValueError, match="valid_every is 0"):
        mb.train(fresh(), tasks, valid_every=0)
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
