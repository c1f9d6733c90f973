# SPDX-License-Identifier: MIT
"""Data of one's own that are no images: ten lines from an array to a score."""

import numpy as np
import pytest
import torch
from torch import nn

import metabook as mb


def shapes(classes, examples, length, seed=0):
    """Each class is a curve of two channels; its examples are shifted and
    noisy.
    """
    rng = np.random.default_rng(seed)
    curves = rng.standard_normal((classes, 1, 2, length)).cumsum(axis=-1)
    curves = curves - curves.mean(axis=-1, keepdims=True)
    shifts = rng.standard_normal((classes, examples, 2, 1))
    noise = rng.standard_normal((classes, examples, 2, length))
    labels = np.repeat([f"kind {c}" for c in range(classes)], examples)
    return (curves + shifts + noise).reshape(-1, 2, length), labels


SIGNALS = """
data = mb.LabelledImages(signals.astype("float32"), labels)
train, test = data.split(0.7, 0.3, seed=0)
net = nn.Sequential(
    nn.Conv1d(2, 16, 7, stride=2), nn.ReLU(), nn.BatchNorm1d(16), nn.Flatten()
)
learner = mb.ProtoNet(net)
tasks = mb.FewShotTasks(train, way=5, shot=1, query=5)
mb.train(learner, tasks, iterations=20, tasks_per_batch=4)
exam = mb.FewShotTasks(test, way=5, shot=1, query=5, seed=1)
score = mb.evaluate(learner, exam, episodes=100)
"""


def test_signals_train_in_ten_lines():
    signals, labels = shapes(classes=30, examples=12, length=64)
    names = {"mb": mb, "nn": nn, "signals": signals, "labels": labels}
    assert len(SIGNALS.strip().splitlines()) == 10
    exec(SIGNALS, names)
    assert names["score"].mean - names["score"].ci95 > 0.6, "guessing: 0.2"
    episode = names["exam"].sample(2)
    assert episode.query_x.shape == (2, 25, 2, 64)
    assert all(n.startswith("kind ") for n in episode.class_names[0])


def words(classes, examples, length, vocabulary, seed=0):
    """Each class has five words of its own among many that all use."""
    rng = np.random.default_rng(seed)
    own = rng.integers(0, vocabulary, (classes, 5))
    tokens = rng.integers(0, vocabulary, (classes, examples, length))
    chosen = own[
        np.arange(classes)[:, None, None], rng.integers(0, 5, tokens.shape)
    ]
    use = rng.random(tokens.shape) < 0.5
    labels = np.repeat(np.arange(classes), examples)
    return np.where(use, chosen, tokens).reshape(-1, length), labels


class Bag(nn.Module):
    """The mean of the vectors of the tokens, and a layer on top."""

    def __init__(self, vocabulary, out):
        super().__init__()
        self.words = nn.Embedding(vocabulary, 32)
        self.head = nn.Linear(32, out)

    def forward(self, tokens):
        return self.head(self.words(tokens).mean(dim=1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: mb.ProtoNet(Bag(50, 16)),
        lambda: mb.MatchingNet(Bag(50, 16)),
        lambda: mb.MAML(Bag(50, 5), inner_lr=0.4),
        lambda: mb.MAML(Bag(50, 5), inner_lr=0.4, query_dtype=torch.bfloat16),
        lambda: mb.ProtoNet(Bag(50, 16), embedding_dtype=torch.bfloat16),
        lambda: mb.NearestCentroid(Bag(50, 16)),
    ],
    ids=["protonet", "matching", "maml", "maml-half", "proto-half", "centroid"],
)
def test_tokens_reach_the_network_as_integers(make):
    tokens, labels = words(20, 12, length=30, vocabulary=50)
    data = mb.LabelledImages(tokens, labels)
    train, test = data.split(0.5, 0.5, seed=0)
    learner = make()
    tasks = mb.FewShotTasks(train, way=5, shot=2, query=5)
    exam = mb.FewShotTasks(test, way=5, shot=2, query=5, seed=1)
    assert tasks.sample(1).query_x.dtype == torch.int64
    if not isinstance(learner, mb.NearestCentroid):
        mb.train(learner, tasks, 30, 4, lr=0.01, progress=False)
    score = mb.evaluate(learner, exam, episodes=60)
    assert score.mean - score.ci95 > 0.3, "guessing: 0.2"


def test_tokens_are_embedded_once_too():
    tokens, labels = words(20, 12, length=30, vocabulary=50)
    data = mb.LabelledImages(tokens, labels)
    learner = mb.ProtoNet(Bag(50, 16))
    exam = mb.FewShotTasks(data, way=5, shot=2, query=5, seed=1)
    fast = mb.evaluate_embedded(learner, exam, episodes=30)
    slow = mb.evaluate(learner, exam, episodes=30)
    assert np.allclose(fast.scores, slow.scores, atol=0.041)


def test_signals_of_another_type_are_named_and_the_way_out_leads_out():
    signals, labels = shapes(classes=6, examples=6, length=40)  # float64
    net = nn.Sequential(nn.Conv1d(2, 4, 7), nn.Flatten())
    options = {"way": 5, "shot": 1, "query": 2}
    tasks = mb.FewShotTasks(mb.LabelledImages(signals, labels), **options)
    with pytest.raises(
        ValueError, match=r"float64 but the weights are torch.float32: use"
    ):
        mb.evaluate(mb.ProtoNet(net), tasks, episodes=3)
    data = mb.LabelledImages(signals.astype("float32"), labels)
    tasks = mb.FewShotTasks(data, **options)
    assert mb.evaluate(mb.ProtoNet(net), tasks, episodes=3).n == 3
