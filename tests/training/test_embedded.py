# SPDX-License-Identifier: MIT
"""Evaluation on vectors: what the long way says, from one pass of images."""

import copy

import pytest
import torch
from conftest import small_conv
from torch import nn

import metabook as mb
from metabook.training.embedded import EmbeddedImages, folded

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


def with_statistics(net, images):
    """Batch norm that has seen images: folding it has something to do."""
    net.train()
    for rows in torch.arange(len(images)).split(200):
        net(images.pixels(rows))
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.5, 0.5)
    return net.eval()


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


class Double:
    """The same tasks in double precision."""

    def __init__(self, tasks):
        self.tasks = tasks

    def sample(self, n, start=0):
        return self.tasks.sample(n, start).to(torch.float64)


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
    scores = mb.evaluate_embedded(
        learner,
        images,
        ways=(5, 20),
        shots=(1, 2),
        query=3,
        episodes=12,
        seed=4,
        batch=5,
    )
    assert list(scores) == [(5, 1), (5, 2), (20, 1), (20, 2)]
    for (way, shot), score in scores.items():
        tasks = mb.FewShotTasks(images, way, shot, query=3, seed=4)
        expected = mb.evaluate(
            learner, tasks if name == "pixels" else Double(tasks), episodes=12
        )
        assert score.scores.tolist() == expected.scores.tolist()
        assert repr(score) == repr(expected)


def test_in_single_precision_accuracies_agree(net, images):
    score = mb.evaluate_embedded(
        mb.ProtoNet(net), images, [5], [1], episodes=150, seed=1
    )[5, 1]
    expected = mb.evaluate(
        mb.ProtoNet(net),
        mb.FewShotTasks(images, 5, 1, 15, seed=1),
        episodes=150,
    )
    assert (score.scores != expected.scores).mean() < 0.02, (
        "only a tie may be broken the other way"
    )
    assert score.mean == pytest.approx(expected.mean, abs=1e-4)


def test_losses_can_be_asked_for(net, images):
    learner = mb.RelationNet(net, features=16)
    score = mb.evaluate_embedded(
        learner, images, [5], [2], query=3, episodes=10, metric="loss"
    )[5, 2]
    expected = mb.evaluate(
        learner, mb.FewShotTasks(images, 5, 2, 3), episodes=10, metric="loss"
    )
    assert score.metric == "one_hot_mse"
    assert score.scores == pytest.approx(expected.scores, rel=1e-5)


def test_every_image_is_embedded_once_however_many_the_episodes(net, images):
    seen = []
    embedding = _Recorder(net, seen)
    mb.evaluate_embedded(
        mb.ProtoNet(embedding), images, (5, 10), (1, 2), query=3, episodes=20
    )
    one_episode = 5 * (1 + 3)  # the one that is computed both ways
    assert sum(seen) == len(images) + one_episode


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
    mb.evaluate_embedded(
        mb.ProtoNet(net), images, [20], [1], query=2, episodes=203, batch=50
    )
    assert sizes == [1, 1, 50, 50, 50, 50, 3]  # one both ways first


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_the_batch_changes_nothing(batch, net, images):
    a, b = (
        mb.evaluate_embedded(
            mb.ProtoNet(net).double(), images, [5], [1], 3, 30, batch=n
        )[5, 1]
        for n in (batch, 32)
    )
    assert a.scores.tolist() == b.scores.tolist()


def test_the_learner_is_left_as_it_was_found(net, images):
    learner = mb.ProtoNet(net)
    net.train()
    learner.eval().embedding.features[1].train()  # a mixture of modes
    state, modes = (
        copy.deepcopy(learner.state_dict()),
        [m.training for m in learner.modules()],
    )
    mb.evaluate_embedded(learner, images, [5], [1], query=3, episodes=4)
    assert [m.training for m in learner.modules()] == modes
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            state.values(), learner.state_dict().values(), strict=True
        )
    )


def test_learners_without_vectors_are_sent_to_evaluate(images):
    with pytest.raises(
        ValueError,
        match=r"MAML has no vectors to keep: .* measure it with evaluate",
    ):
        mb.evaluate_embedded(mb.MAML(small_conv(out=5)), images, [5], [1])
    with pytest.raises(
        ValueError,
        match=r"this ProtoNet is transductive: .* changes with the episode",
    ):
        mb.evaluate_embedded(
            mb.ProtoNet(small_conv(norm="batch_stats")), images, [5], [1]
        )


def test_a_learner_that_does_more_than_embed_and_score_is_refused(net, images):
    class Refined(mb.ProtoNet):
        """Moves the prototypes towards the queries: what a subclass might do to
        `forward` alone.
        """

        def forward(self, support_x, support_y, query_x):
            return super().forward(support_x, support_y, query_x) * 2

    with pytest.raises(ValueError, match="it does more than embed and score"):
        mb.evaluate_embedded(Refined(net), images, [5], [1])


def test_what_cannot_be_drawn_is_refused_before_anything_is_embedded(
    net, images
):
    seen = []
    learner = mb.ProtoNet(_Recorder(net, seen))
    with pytest.raises(
        ValueError, match="a 41-way task needs 41 classes; these images have 40"
    ):
        mb.evaluate_embedded(learner, images, ways=(5, 41))
    with pytest.raises(ValueError, match="10-shot with 15 queries needs 25"):
        mb.evaluate_embedded(learner, images, shots=(1, 10))
    assert not seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options", [{}, {"strided": True}, {"out": 5}, {"out": 5, "strided": True}]
)
def test_a_folded_network_computes_the_same(options, dtype, images):
    net = with_statistics(mb.Conv4(width=16, **options), images).to(dtype)
    x = images.pixels(torch.arange(0, 200, 7)).to(dtype)
    state = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        expected, values = net(x), folded(net)(x)
    assert (values - expected).abs().max() <= (
        1e-5 if dtype == torch.float32 else 1e-13
    ) * expected.abs().max()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded(net).modules())
    assert all(
        torch.equal(a, b)
        for a, b in zip(state.values(), net.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    "net",
    [
        mb.Conv4(width=4, norm="group"),
        mb.Conv4(width=4, norm="batch_stats"),
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.BatchNorm2d(3)),
        nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 3, 3)),
        nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 3, 3)),
            nn.BatchNorm2d(3),
        ),
    ],
)
def test_what_cannot_be_folded_stays(net):
    x = torch.rand(3, 1, 28, 28)
    assert list(map(type, folded(net).modules())) == list(
        map(type, net.modules())
    )
    assert torch.allclose(folded(net)(x), net.eval()(x))


def test_a_convolution_that_is_used_twice_is_folded_each_time():
    conv = nn.Conv2d(2, 2, 3, padding=1)
    net = nn.Sequential(
        conv, nn.BatchNorm2d(2), nn.ReLU(), conv, nn.BatchNorm2d(2)
    )
    net[1].weight.data.fill_(3.0)
    net[4].running_mean.fill_(0.7)
    x = torch.rand(3, 2, 6, 6)
    assert torch.allclose(folded(net)(x), net.eval()(x), atol=1e-5)
