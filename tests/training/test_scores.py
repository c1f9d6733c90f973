# SPDX-License-Identifier: MIT
"""What a score knows besides its mean: classes, confusions, metrics of one's
own.
"""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import small_conv
from sklearn.metrics import f1_score
from torch import nn

import metabook as mb
from metabook.training.scores import Score


@pytest.fixture
def named(images):
    return mb.FewShotTasks(images, way=5, shot=1, query=3, seed=4)


def counted_by_hand(learner, tasks, episodes):
    """(class, predicted class) of every query, one at a time."""
    pairs = Counter()
    for i in range(episodes):
        episode = tasks.sample(1, start=i)
        (names,) = episode.class_names
        with torch.no_grad():
            labels = learner.eval().predict(
                episode.support_x, episode.support_y, episode.query_x
            )
        for y, p in zip(episode.query_y[0], labels[0], strict=True):
            pairs[names[y], names[p]] += 1
    return pairs


@pytest.mark.parametrize("batch", [1, 8, 100])
def test_queries_are_counted_by_class_and_predicted_class(named, batch):
    learner = mb.ProtoNet(small_conv(norm="batch"))
    score = mb.evaluate(learner, named, episodes=20, batch=batch)
    pairs = counted_by_hand(learner, named, 20)
    assert score.answers == pairs
    names, matrix = score.confusion
    assert list(names) == sorted({name for pair in pairs for name in pair})
    assert matrix.dtype == np.int64
    for i, name in enumerate(names):
        for j, predicted in enumerate(names):
            assert matrix[i, j] == pairs[name, predicted]
    for name, (accuracy, queries) in score.per_class.items():
        asked = sum(n for (of, _), n in pairs.items() if of == name)
        assert queries == asked
        assert accuracy == pairs[name, name] / asked
    # all queries together: here every episode has as many
    assert np.trace(matrix) / matrix.sum() == pytest.approx(score.mean)


def test_classes_are_known_on_vectors_too(named):
    learner = mb.ProtoNet(mb.Conv4(width=8)).double()
    slow = mb.evaluate(learner, named, episodes=15)
    fast = mb.evaluate_embedded(learner, named, episodes=15)
    assert fast.answers == slow.answers


def test_classes_are_known_after_every_inner_step(named):
    learner = mb.MAML(small_conv(out=5), inner_lr=0.4)
    scores = mb.evaluate_steps(learner, named, steps=2, episodes=10)
    for k, score in enumerate(scores):
        learner.inner_steps = k
        expected = mb.evaluate(learner, named, episodes=10)
        assert score.answers == expected.answers
        assert score.confusion.matrix.sum() == 10 * 15
    assert scores[0].answers != scores[2].answers


class OneIsSeven(mb.Learner):
    """Knows every class but one."""

    def forward(self, support_x, support_y, query_x):
        truth = query_x[..., 0].long()
        return F.one_hot(torch.where(truth == 1, 2, truth), 3).float()


class Digits:
    """The query is its own label."""

    names = ("0", "1", "7")

    def sample(self, tasks, start=0):
        y = torch.arange(3).repeat(tasks, 1)
        x = y[..., None].float()
        names = (self.names,) * tasks
        return mb.Episode(x, y, x, y, class_names=names)


def test_a_confusion_reads_from_the_class_to_what_it_was_taken_for():
    score = mb.evaluate(OneIsSeven(), Digits(), episodes=10)
    assert score.confusion.names == ("0", "1", "7")
    assert score.confusion.matrix.tolist() == [
        [10, 0, 0],
        [0, 0, 10],
        [0, 0, 10],
    ]
    assert score.per_class["1"] == (0.0, 10)
    assert score.per_class["7"] == (1.0, 10)
    assert "66.67 % ± 0.00 accuracy" in repr(score)


def test_of_many_classes_few_pairs_are_kept():
    """A matrix of ten thousand classes would have a hundred million entries."""

    class Wide(Digits):
        def sample(self, tasks, start=0):
            episode = super().sample(tasks, start)
            names = tuple(
                tuple(f"class {3 * (start + t) + j:05}" for j in range(3))
                for t in range(tasks)
            )
            return replace(episode, class_names=names)

    score = mb.evaluate(OneIsSeven(), Wide(), episodes=4000, batch=500)
    assert len(score.answers) == 3 * 4000
    assert len(score.per_class) == 3 * 4000
    assert score.per_class["class 00001"] == (0.0, 1)


def test_what_knows_no_classes_says_so(named):
    waves = mb.evaluate(
        mb.MAML(mb.MLP(1, 1), loss_fn=F.mse_loss), mb.Sinusoids(), episodes=2
    )
    loss = mb.evaluate(
        mb.ProtoNet(mb.Conv4(width=4)), named, episodes=2, metric="loss"
    )
    for score in (waves, loss, Score(np.ones(3), "accuracy", True, False)):
        for ask in ("per_class", "confusion"):
            with pytest.raises(ValueError, match="does not know its classes"):
                getattr(score, ask)


class OneScore(mb.Learner):
    """Says by the sign of one score which of two classes it is."""

    def forward(self, support_x, support_y, query_x):
        means = torch.stack(
            [support_x[support_y == y].mean() for y in support_y.unique()]
        )
        return query_x.flatten(2).mean(dim=2, keepdim=True) - means.mean()


def test_one_score_for_two_classes_is_read_by_its_sign(images):
    tasks = mb.FewShotTasks(images, way=2, shot=3, query=4, seed=2)
    learner = OneScore(loss_fn=lambda scores, columns: scores.mean())
    score = mb.evaluate(learner, tasks, episodes=30, batch=1)
    for i in range(30):
        e = tasks.sample(1, start=i)
        predicted = learner.predict(e.support_x, e.support_y, e.query_x)
        right = (predicted == e.query_y).double().mean()
        assert score.scores[i] == pytest.approx(float(right))
    assert 0 < (score.scores < 1).mean() < 1
    assert score.confusion.matrix.sum() == 30 * 8


def test_scores_of_another_number_of_classes_are_refused(tasks):
    class Narrow(mb.NearestCentroid):
        def forward(self, *parts):
            return super().forward(*parts)[..., :4]

    with pytest.raises(
        ValueError, match="scores have 4 columns but the tasks have 5 classes"
    ):
        mb.evaluate(Narrow(nn.Flatten()), tasks, episodes=2)


class Masks:
    """Images with a class for each pixel."""

    def sample(self, tasks, start=0):
        generator = torch.Generator().manual_seed(start)
        x = torch.randn(tasks, 4, 1, 6, 6, generator=generator)
        y = (x[:, :, 0] > 0).long()
        return mb.Episode(x[:, :2], y[:, :2], x[:, 2:], y[:, 2:])


def test_a_class_for_each_pixel_is_measured_by_the_loss_or_ones_own_metric():
    learner = mb.MAML(nn.Conv2d(1, 2, 3, padding=1), inner_lr=0.1)

    def share_of_pixels(predictions, targets):
        assert predictions.shape == (2, 2, 6, 6)
        return (predictions.argmax(dim=1) == targets).double().mean()

    loss = mb.evaluate(learner, Masks(), episodes=8)
    assert loss.metric == "cross_entropy"
    own = mb.evaluate(learner, Masks(), episodes=8, metric=share_of_pixels)
    assert 0 < own.mean < 1
    with pytest.raises(ValueError, match="only one class label an example has"):
        mb.evaluate(learner, Masks(), episodes=8, metric="accuracy")


def test_names_that_are_not_those_of_the_columns_are_refused():
    class TooFew(Digits):
        names = ("0", "1")

    with pytest.raises(
        ValueError,
        match=r"have 3 classes but \[2\] class_names: name j belongs to",
    ):
        mb.evaluate(OneIsSeven(), TooFew(), episodes=2)


def test_episodes_of_which_some_are_nameless_are_not_counted_in_part(named):
    class Half:
        def sample(self, tasks, start=0):
            if start == 8:
                return replace(named.sample(tasks, start), class_names=None)
            return named.sample(tasks, start)

    learner = mb.ProtoNet(mb.Conv4(width=4))
    assert mb.evaluate(learner, Half(), episodes=24).answers is None
    assert mb.evaluate(learner, Half(), episodes=8).answers is not None


# --- metrics of one's own ---


def top_two(scores, targets):
    best = scores.topk(2, dim=1).indices
    return (best == targets[:, None]).any(dim=1).double().mean()


def macro_f1(scores, targets):  # of scikit-learn, which returns a float
    return f1_score(targets, scores.argmax(dim=1), average="macro")


def test_a_metric_of_ones_own_is_asked_task_by_task(tasks):
    learner = mb.ProtoNet(small_conv(norm="batch"))
    for metric in (top_two, macro_f1):
        score = mb.evaluate(learner, tasks, episodes=11, metric=metric)
        assert (score.metric, score.higher_is_better) == (metric.__name__, True)
        for i in (0, 10):
            e = tasks.sample(1, start=i)
            with torch.no_grad():
                scores = learner.eval()(e.support_x, e.support_y, e.query_x)[0]
            assert score.scores[i] == pytest.approx(
                float(metric(scores, e.query_y[0]))
            )
    accuracy = mb.evaluate(learner, tasks, episodes=11)
    two = mb.evaluate(learner, tasks, episodes=11, metric=top_two)
    assert two.mean > accuracy.mean + 0.05


def test_a_metric_of_regression_meets_the_floating_targets():
    def largest_error(predictions, targets):
        assert predictions.shape == targets.shape == (10, 1)
        return (predictions - targets).abs().max()

    learner = mb.MAML(mb.MLP(1, 1), loss_fn=F.mse_loss)
    score = mb.evaluate(
        learner,
        mb.Sinusoids(),
        episodes=9,
        metric=largest_error,
        higher_is_better=False,
    )
    assert score.metric == "largest_error"
    assert not score.higher_is_better
    assert score.better_than(score.mean + 1)
    error = mb.evaluate(learner, mb.Sinusoids(), episodes=9)
    assert (score.scores**2 > error.scores).all()


def test_a_metric_reads_half_precision_with_numpy(tasks):
    def best(scores, targets):
        return scores.numpy().max()

    learner = mb.ProtoNet(mb.Conv4(width=4)).to(torch.bfloat16)
    assert mb.evaluate(learner, tasks, episodes=3, metric=best).n == 3


def test_a_metric_goes_through_every_way_of_evaluating(tasks):
    learner = mb.ProtoNet(mb.Conv4(width=4)).double()
    slow = mb.evaluate(learner, tasks, 8, metric=top_two)
    fast = mb.evaluate_embedded(learner, tasks, 8, metric=top_two)
    pair = mb.compare(learner, learner, tasks, 8, metric=top_two)
    assert slow.scores.tolist() == fast.scores.tolist()
    assert slow.scores.tolist() == pair.second.scores.tolist()
    assert pair.first.metric == "top_two"
    steps = mb.evaluate_steps(
        mb.MAML(mb.MLP(784, 5)), tasks, 2, 8, metric=top_two
    )
    assert [s.metric for s in steps] == ["top_two"] * 3


def test_a_metric_that_returns_no_number_is_refused(tasks):
    learner = mb.NearestNeighbour()

    def each_query(scores, targets):
        return (scores.argmax(dim=1) == targets).double()

    def nothing(scores, targets):
        pass

    for metric, what in (each_query, r"\(15,\)"), (nothing, "NoneType"):
        with pytest.raises(
            ValueError, match=f"{metric.__name__} returned {what}; a metric ret"
        ):
            mb.evaluate(learner, tasks, episodes=2, metric=metric)


def test_a_metric_that_is_not_finite_is_refused_by_name(tasks):
    def correlation(scores, targets):
        return math.nan

    with pytest.raises(
        FloatingPointError,
        match="correlation in episodes 0 to 1 is not finite, though the pred",
    ):
        mb.evaluate(
            mb.NearestNeighbour(), tasks, episodes=2, metric=correlation
        )


def test_a_loss_that_is_infinite_is_no_score(tasks):
    learner = mb.NearestNeighbour()
    learner.loss_fn = lambda scores, targets: scores.sum() / 0
    with pytest.raises(FloatingPointError, match="not finite, though the pre"):
        mb.evaluate(learner, tasks, episodes=2, metric="loss")


# --- what is asked for is what is measured ---


@pytest.mark.parametrize("delivered", [1, 9])
def test_more_or_fewer_episodes_than_asked_for_are_refused(tasks, delivered):
    class Stubborn:
        def sample(self, n, start=0):
            return tasks.sample(delivered, start)

    with pytest.raises(
        ValueError, match=rf"Stubborn.sample\(8, 0\) returned {delivered} tasks"
    ):
        mb.evaluate(mb.NearestNeighbour(), Stubborn(), episodes=100)


def test_a_list_that_is_too_short_is_refused():
    class Short(mb.VariedTasks):
        def sample(self, n, start=0):
            return super().sample(n, start)[: n // 2 + 1]

    tasks = Short(mb.glyphs(classes=20, seed=0), way=(3, 5), shot=1)
    with pytest.raises(ValueError, match="returned 5 tasks: it must return as"):
        mb.evaluate(mb.NearestNeighbour(), tasks, episodes=100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 0}, "episodes is 0; it must be at least 1"),
        ({"start": -1}, "start is -1; it must be at least 0"),
        ({"batch": 0}, "batch is 0; it must be at least 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(tasks, options, message):
    with pytest.raises(ValueError, match=message):
        mb.evaluate(mb.NearestNeighbour(), tasks, **options)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16], ids=["double", "bfloat16"]
)
def test_tasks_are_taken_to_the_precision_of_the_learner(dtype, tasks):
    torch.manual_seed(0)
    for learner, source, metric in (
        (mb.ProtoNet(mb.Conv4(width=8)), tasks, None),
        (mb.ProtoNet(mb.Conv4(width=8)), tasks, "loss"),
        (mb.NearestCentroid(nn.Flatten()), tasks, None),
        (mb.MAML(mb.MLP(1, 1), loss_fn=F.l1_loss), mb.Sinusoids(), None),
    ):
        single = mb.evaluate(learner, source, episodes=40, metric=metric)
        other = mb.evaluate(learner.to(dtype), source, 40, metric=metric)
        assert other.scores.dtype == np.float64
        assert other.mean == pytest.approx(single.mean, rel=0.05)
