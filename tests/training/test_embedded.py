# SPDX-License-Identifier: MIT
"""Evaluation on vectors: what the long way says, from one pass over images."""

import copy
import random

import numpy as np
import pytest
import torch
from conftest import small_conv
from test_folding import with_statistics
from torch import nn

import metabook as mb
from metabook.training.embedded import EmbeddedImages

LEARNERS = {
    "prototypes": lambda net: mb.ProtoNet(net),
    "prototypes, cosine": lambda net: mb.ProtoNet(
        net, distance="cosine", temperature=0.1
    ),
    "matching": lambda net: mb.MatchingNet(net),
    "relation": lambda net: mb.RelationNet(net, features=16, width=8),
    "nearest centroid": lambda net: mb.NearestCentroid(
        net, center=torch.full((16,), 0.1)
    ),
    "nearest neighbour": lambda net: mb.NearestNeighbour(
        net, distance="euclidean"
    ),
    "fine-tuning, linear": lambda net: mb.FineTuning(net, steps=20),
    "fine-tuning, cosine": lambda net: mb.FineTuning(
        net, head="cosine", steps=20
    ),
    "pixels": lambda net: mb.NearestCentroid(nn.Flatten()),
}


@pytest.fixture(scope="module")
def trained(images):
    """A network that tells classes apart: where all vectors are nearly the
    same, distances are differences of rounding.
    """
    torch.manual_seed(0)
    learner = mb.ProtoNet(mb.Conv4(width=16))
    mb.train(
        learner,
        mb.FewShotTasks(images, way=10, shot=1, query=3, seed=9),
        30,
        1,
        lr=3e-3,
        progress=False,
    )
    return learner.embedding


@pytest.fixture
def net(trained):
    return copy.deepcopy(trained)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LEARNERS)
def test_scores_of_vectors_are_the_scores_of_images(name, dtype, net, images):
    learner = LEARNERS[name](net).to(dtype)
    slow = (
        mb.FewShotTasks(images, way=7, shot=3, query=4, seed=5)
        .sample(6, start=2)
        .to(dtype)
    )
    fast = mb.FewShotTasks(
        EmbeddedImages(images, learner), way=7, shot=3, query=4, seed=5
    ).sample(6, start=2)
    with torch.no_grad():
        expected = learner(slow.support_x, slow.support_y, slow.query_x)
        scores = learner.score(
            fast.support_x.to(dtype), fast.support_y, fast.query_x.to(dtype)
        )
    # pixels of 8 bits come as float32
    single = dtype == torch.float32 or name == "pixels"
    tolerance = 1e-5 if single else 1e-12
    assert (scores - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("name", LEARNERS)
def test_accuracies_are_those_of_evaluate_on_the_same_tasks(name, net, images):
    learner = LEARNERS[name](net).double()
    tasks = {
        (way, shot): mb.FewShotTasks(images, way, shot, query=3, seed=4)
        for way in (5, 20)
        for shot in (1, 2)
    } | {"varied": mb.VariedTasks(images, way=(3, 9), shot=(1, 4), seed=2)}
    scores = mb.evaluate_embedded(learner, tasks, episodes=12, batch=5)
    assert list(scores) == list(tasks)
    for setting, score in scores.items():
        expected = mb.evaluate(learner, tasks[setting], episodes=12)
        assert score.scores.tolist() == expected.scores.tolist()
        assert repr(score) == repr(expected)


def test_in_single_precision_accuracies_agree(net, images):
    tasks = mb.FewShotTasks(images, 5, 1, 15, seed=1)
    score = mb.evaluate_embedded(mb.ProtoNet(net), tasks, episodes=150)
    expected = mb.evaluate(mb.ProtoNet(net), tasks, episodes=150)
    assert (score.scores != expected.scores).mean() < 0.02, (
        "only a tie may be broken the other way"
    )
    assert score.mean == pytest.approx(expected.mean, abs=1e-4)


def test_losses_can_be_asked_for(net, images):
    learner = mb.RelationNet(net, features=16)
    tasks = mb.FewShotTasks(images, way=5, shot=2, query=3)
    score, expected = (
        measure(learner, tasks, episodes=10, metric="loss")
        for measure in (mb.evaluate_embedded, mb.evaluate)
    )
    assert score.metric == "one_hot_mse"
    assert score.scores == pytest.approx(expected.scores, rel=1e-5)


def test_every_image_is_embedded_once_however_many_the_episodes(
    net, images, monkeypatch
):
    monkeypatch.setenv("METABOOK_PROBE", "0")  # which embeds a few more
    seen = []
    embedding = _Recorder(net, seen)
    tasks = {
        setting: mb.FewShotTasks(images, *setting, query=3)
        for setting in [(5, 1), (10, 1), (5, 2)]
    }
    mb.evaluate_embedded(mb.ProtoNet(embedding), tasks, episodes=20)
    one_episode = 5 * (1 + 3)  # as vectors, and once more as a whole
    assert sum(seen) == len(images) + 2 * one_episode


class _Recorder(nn.Module):
    def __init__(self, net, seen):
        super().__init__()
        self.net, self.seen = net, seen

    def __deepcopy__(self, memo):
        return _Recorder(copy.deepcopy(self.net, memo), self.seen)

    def forward(self, x):
        self.seen.append(len(x))
        return self.net(x)


def test_no_more_than_a_batch_of_episodes_is_held_at_once(
    net, images, monkeypatch
):
    sizes, sample = [], mb.FewShotTasks.sample
    monkeypatch.setattr(
        mb.FewShotTasks,
        "sample",
        lambda self, n, start=0: sizes.append(n) or sample(self, n, start),
    )
    tasks = mb.FewShotTasks(images, way=20, shot=1, query=2)
    mb.evaluate_embedded(mb.ProtoNet(net), tasks, episodes=203, batch=50)
    assert sizes == [1, 1, 50, 50, 50, 50, 3]  # one both ways first


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_the_batch_changes_nothing(batch, net, images):
    tasks = mb.FewShotTasks(images, way=5, shot=1, query=3)
    a, b = (
        mb.evaluate_embedded(mb.ProtoNet(net).double(), tasks, 30, batch=n)
        for n in (batch, 32)
    )
    assert a.scores.tolist() == b.scores.tolist()


def test_the_learner_is_left_as_it_was_found(net, tasks):
    learner = mb.ProtoNet(net)
    net.train()
    learner.eval().embedding.features[1].train()  # a mixture of modes
    state, modes = (
        copy.deepcopy(learner.state_dict()),
        [m.training for m in learner.modules()],
    )
    mb.evaluate_embedded(learner, tasks, episodes=4)
    assert [m.training for m in learner.modules()] == modes
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            state.values(), learner.state_dict().values(), strict=True
        )
    )


def test_learners_without_vectors_are_sent_to_evaluate(tasks):
    with pytest.raises(
        ValueError,
        match=r"MAML has no vectors to keep: .* measure it with evaluate",
    ):
        mb.evaluate_embedded(mb.MAML(small_conv(out=5)), tasks)
    with pytest.raises(
        ValueError,
        match=r"this ProtoNet is transductive: .* changes with the episode",
    ):
        mb.evaluate_embedded(mb.ProtoNet(small_conv(norm="batch_stats")), tasks)


def test_a_learner_that_does_more_than_embed_and_score_is_refused(net, tasks):
    class Refined(mb.ProtoNet):
        """Moves the prototypes towards the queries: what a subclass might do to
        `forward` alone.
        """

        def forward(self, support_x, support_y, query_x):
            return super().forward(support_x, support_y, query_x) * 2

    with pytest.raises(ValueError, match="it does more than embed and score"):
        mb.evaluate_embedded(Refined(net), tasks)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_not_taken_for_another_learner(
    dtype, net, images, tasks
):
    """Distances of vectors that are alike lose most of its few digits."""
    for network in (net, with_statistics(mb.Conv4(width=16), images)):
        learner = mb.ProtoNet(network).to(dtype)
        score, loss = (
            mb.evaluate_embedded(learner, tasks, 20, metric=metric)
            for metric in (None, "loss")
        )
        assert score.n == loss.n == 20
    learner = mb.ProtoNet(net)
    exact = mb.evaluate_embedded(learner.float(), tasks, episodes=100)
    half = mb.evaluate_embedded(learner.to(dtype), tasks, episodes=100)
    assert half.mean == pytest.approx(exact.mean, abs=0.02)


def test_an_embedding_that_looks_at_its_batch_is_refused(net, tasks):
    class Centred(nn.Module):
        def forward(self, x):
            z = x.flatten(1)
            return z - z.mean(dim=0)

    with pytest.raises(ValueError, match="looks at the other images of its ba"):
        mb.evaluate_embedded(mb.ProtoNet(Centred()), tasks)


def test_a_transform_that_is_always_the_same_is_applied_once(net, images):
    tasks = mb.FewShotTasks(
        images, 5, 1, 3, seed=2, transform=lambda x: (x - 0.1) / 0.3
    )
    plain = mb.FewShotTasks(images, 5, 1, 3, seed=2)
    learner = mb.ProtoNet(net).double()
    scores = mb.evaluate_embedded(
        learner, {"transformed": tasks, "plain": plain}, episodes=30
    )
    for name, each in ("transformed", tasks), ("plain", plain):
        expected = mb.evaluate(learner, each, episodes=30)
        assert scores[name].scores.tolist() == expected.scores.tolist()
    assert (scores["plain"].scores != scores["transformed"].scores).any()


GENERATOR = torch.Generator()


@pytest.mark.parametrize(
    "transform",
    [
        lambda x: x + 0.1 * torch.rand(()),
        lambda x: x * np.random.rand(),  # noqa: NPY002
        lambda x: x.flip(-1) if random.random() < 1e-9 else x,
        lambda x: x + torch.rand((), generator=GENERATOR),
    ],
    ids=["torch", "numpy", "seldom", "own generator"],
)
def test_a_random_transform_is_refused(transform, net, images):
    tasks = mb.FewShotTasks(images, 5, 1, 3, transform=transform)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="is random, so that an image has no"):
        mb.evaluate_embedded(mb.ProtoNet(net), tasks)
    assert torch.equal(before, torch.get_rng_state())
    # the way out
    assert mb.evaluate(mb.ProtoNet(net), tasks, episodes=2).n == 2


def test_what_is_not_drawn_from_images_is_sent_to_evaluate(net, images):
    learner = mb.ProtoNet(net)
    with pytest.raises(ValueError, match="Sinusoids draws no tasks from Labe"):
        mb.evaluate_embedded(learner, mb.Sinusoids())
    with pytest.raises(ValueError, match=r"as FewShotTasks\(images, way=5"):
        mb.evaluate_embedded(learner, images)
    mb.evaluate_embedded(
        learner, mb.FewShotTasks(images, way=5, shot=1), episodes=2
    )


def test_nothing_is_embedded_before_all_was_checked(net, images):
    seen = []
    learner = mb.ProtoNet(_Recorder(net, seen))
    tasks = mb.FewShotTasks(images, way=5, shot=1)
    with pytest.raises(ValueError, match="Sinusoids draws no tasks"):
        mb.evaluate_embedded(learner, {1: tasks, 2: mb.Sinusoids()})
    assert not seen
