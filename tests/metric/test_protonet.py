# SPDX-License-Identifier: MIT
"""Prototypical networks: the mean of each class, whatever its label."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import metabook as mb
from metabook.metric.distances import DISTANCES, squared_euclidean
from metabook.metric.relation import one_hot_mse


def plain_prototypes(x, y):
    return torch.stack([x[y == c].mean(dim=0) for c in sorted(set(y.tolist()))])


@pytest.mark.parametrize(
    "labels",
    [
        [3, 7, 9, 3, 9, 9],
        [0, 1, 2, 2, 1, 0],
        [5, 5, 5, 5, 5, 5],
        [9, -4, 3, 9, 3, 9],
    ],
)
def test_prototypes_are_the_means_in_the_order_of_the_labels(labels):
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.tensor(labels)
    assert torch.allclose(
        mb.compute_prototypes(x, y), plain_prototypes(x, y), rtol=1e-12
    )


def test_prototypes_of_a_batch_are_those_of_each_task():
    x = torch.randn(3, 6, 4, dtype=torch.float64)
    y = torch.tensor(
        [[3, 7, 9, 3, 9, 9], [1, 1, 0, 0, 2, 2], [8, 8, 8, 8, 4, 6]]
    )
    batch = mb.compute_prototypes(x, y)
    for t in range(3):
        assert torch.allclose(
            batch[t], plain_prototypes(x[t], y[t]), rtol=1e-12
        )


def test_the_order_of_the_support_set_does_not_matter():
    x, y = torch.randn(9, 4, dtype=torch.float64), torch.arange(9) % 3
    shuffle = torch.randperm(9)
    assert torch.allclose(
        mb.compute_prototypes(x, y),
        mb.compute_prototypes(x[shuffle], y[shuffle]),
        rtol=1e-12,
    )


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int32, torch.int16, torch.uint8]
)
def test_integer_labels_of_any_dtype_will_do(dtype):
    y = torch.tensor([2, 0, 2, 0]).to(dtype)
    assert mb.compute_prototypes(torch.eye(4), y).shape == (2, 4)
    assert mb.compute_prototypes(
        torch.eye(4), torch.from_numpy(np.array([2, 0, 2, 0]))
    ).shape == (2, 4)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(4, 2), torch.zeros(4), "class labels are integers"),
        (
            torch.zeros(4, 2),
            torch.zeros(3).long(),
            r"support_x is .1, 4, 2. and support_y is .1, 3.",
        ),
        (torch.zeros(4, 2, 3, 3), torch.zeros(4).long(), "expected"),
        (
            torch.zeros(2, 4, 2),
            torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]]),
            r"the tasks have \[1, 2\] classes",
        ),
    ],
)
def test_prototypes_refuse_what_has_no_means(x, y, message):
    with pytest.raises(ValueError, match=message):
        mb.compute_prototypes(x, y)


class Same(nn.Module):
    def forward(self, x):
        return x


def test_distances_one_and_three_give_logits_minus_one_and_minus_nine():
    support, query = torch.tensor([[[1.0], [-3.0]]]), torch.tensor([[[0.0]]])
    assert torch.equal(
        mb.ProtoNet(Same())(support, torch.tensor([[0, 1]]), query),
        torch.tensor([[[-1.0, -9.0]]]),
    )


def test_the_matrix_form_of_the_distance_equals_the_broadcast_form():
    z, c = torch.randn(2, 7, 5), torch.randn(2, 3, 5)
    slow = (z[:, :, None] - c[:, None]).pow(2).sum(-1)
    assert torch.allclose(squared_euclidean(z, c), slow, rtol=1e-5, atol=1e-5)
    assert (squared_euclidean(1000 * z, 1000 * z) >= 0).all()


def test_the_classifier_is_linear_in_the_embedding():
    """w = 2c and b = -|c|^2: an identity of the squared distance, false for the
    plain one.
    """
    z = torch.randn(1, 7, 5, dtype=torch.float64)
    c = torch.randn(1, 3, 5, dtype=torch.float64)
    linear = 2 * z @ c.mT - c.pow(2).sum(-1)[:, None, :]
    for d, equal in (
        (squared_euclidean(z, c), True),
        (squared_euclidean(z, c).sqrt(), False),
    ):
        assert (
            torch.allclose((-d).softmax(-1), linear.softmax(-1), rtol=1e-9)
            == equal
        )


def test_an_embedding_that_is_no_vector_is_refused():
    learner = mb.ProtoNet(nn.Conv2d(1, 2, 3))
    x = torch.rand(1, 2, 1, 5, 5)
    with pytest.raises(ValueError, match=r"end the network with nn\.Flatten"):
        learner(x, torch.tensor([[0, 1]]), x)


def test_permuted_labels_permute_the_columns(tasks):
    learner, episode = mb.ProtoNet(mb.Conv4(width=4)).eval(), tasks.sample(3)
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        a = learner(episode.support_x, episode.support_y, episode.query_x)
        b = learner(
            episode.support_x, order[episode.support_y], episode.query_x
        )
    assert torch.allclose(a, b[..., order], atol=1e-6)


def test_more_shots_help_and_training_helps(images):
    train, test = images.split(0.7, 0.3)
    learner = mb.ProtoNet(mb.Conv4(width=16))
    five = mb.FewShotTasks(test, 5, 5, 5, seed=1)
    untrained = mb.evaluate(learner, five, episodes=150)
    mb.train(
        learner,
        mb.FewShotTasks(train, 10, 1, 5),
        iterations=60,
        tasks_per_batch=1,
        lr=3e-3,
    )
    one = mb.evaluate(
        learner, mb.FewShotTasks(test, 5, 1, 5, seed=1), episodes=150
    )
    many = mb.evaluate(learner, five, episodes=150)
    assert many.mean - many.ci95 > one.mean + one.ci95
    assert many.mean - many.ci95 > untrained.mean + untrained.ci95


@pytest.mark.parametrize(
    "name", ["squared_euclidean", "euclidean", "manhattan", "cosine"]
)
def test_every_distance_is_what_its_name_says(name):
    z, c = torch.randn(2, 7, 5).double(), torch.randn(2, 3, 5).double()
    difference = z[:, :, None] - c[:, None]
    slow = {
        "squared_euclidean": difference.square().sum(-1),
        "euclidean": difference.norm(dim=-1),
        "manhattan": difference.abs().sum(-1),
        "cosine": (
            1
            - torch.nn.functional.cosine_similarity(
                z[:, :, None], c[:, None], dim=-1
            )
        ),
    }
    assert torch.allclose(
        DISTANCES[name](z, c), slow[name], rtol=1e-9, atol=1e-12
    )


def test_a_query_on_its_prototype_has_a_gradient():
    x = torch.ones(1, 1, 4, requires_grad=True)
    learner = mb.ProtoNet(torch.nn.Flatten(), distance="euclidean")
    learner(
        x.detach().repeat(1, 2, 1), torch.tensor([[0, 1]]), x
    ).sum().backward()
    assert bool(torch.isfinite(x.grad).all())


def test_a_higher_temperature_makes_probabilities_more_uniform():
    parts = torch.randn(1, 5, 6), torch.arange(5)[None], torch.randn(1, 30, 6)
    entropies = []
    for temperature in (0.1, 1.0, 10.0):
        p = mb.ProtoNet(torch.nn.Flatten(), temperature=temperature)(
            *parts
        ).softmax(-1)
        entropies.append(-(p * p.clamp_min(1e-30).log()).sum(-1).mean().item())
    assert entropies == sorted(entropies)
    with pytest.raises(ValueError, match="temperature is 0"):
        mb.ProtoNet(torch.nn.Flatten(), temperature=0)
    with pytest.raises(
        ValueError,
        match="choose one of squared_euclidean, euclidean, manhattan, cosine",
    ):
        mb.ProtoNet(torch.nn.Flatten(), distance="euclid")


def test_cosine_scores_need_a_temperature_and_with_a_learned_one_the_loss_falls(
    tasks,
):
    torch.manual_seed(0)
    plain = mb.ProtoNet(mb.Conv4(width=16), distance="cosine")
    learned = mb.ProtoNet(
        mb.Conv4(width=16),
        distance="cosine",
        temperature=0.1,
        learn_temperature=True,
    )
    episode = tasks.sample(1)
    # with angles of 0 and 180 degrees
    cosines = torch.tensor([1.0, -1.0, -1.0, -1.0, -1.0])
    best = -cosines.log_softmax(0)[0].item()
    losses = {}
    for name, learner in (("plain", plain), ("learned", learned)):
        optimizer = torch.optim.Adam(learner.parameters(), lr=1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            losses[name] = learner.backward(episode)
            optimizer.step()
    assert losses["plain"] > best
    assert losses["learned"] < 0.05


def test_with_one_example_a_class_matching_is_a_prototypical_network(images):
    tasks = mb.FewShotTasks(images, way=5, shot=1, query=3, seed=4).sample(2)
    parts = tasks.support_x, tasks.support_y, tasks.query_x
    net = mb.Conv4(width=8).eval()
    matching = mb.MatchingNet(net, scale=10.0).eval()(*parts)
    prototypes = mb.ProtoNet(net, distance="cosine", temperature=0.1).eval()(
        *parts
    )
    assert torch.allclose(matching, prototypes.log_softmax(-1), atol=1e-4)


def test_matching_votes_are_probabilities_whose_logarithms_are_finite(tasks):
    episode = tasks.sample(3)
    scores = mb.MatchingNet(mb.Conv4(width=8), scale=1000.0)(
        episode.support_x, episode.support_y, episode.query_x
    )
    assert torch.allclose(scores.exp().sum(-1), torch.ones(3, 15), atol=1e-4)
    assert bool(torch.isfinite(scores).all())


@pytest.mark.parametrize(
    ("loss", "of_guessing"),
    [(one_hot_mse, 0.16), (torch.nn.functional.cross_entropy, 1.609)],
)
def test_relation_networks_learn_by_either_loss(loss, of_guessing, tasks):
    torch.manual_seed(0)
    learner = mb.RelationNet(mb.Conv4(width=16), features=16, loss_fn=loss)
    episode = tasks.sample(1)
    optimizer = torch.optim.Adam(learner.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        value = learner.backward(episode)
        optimizer.step()
    assert value < 0.5 * of_guessing


def test_the_nearest_neighbour_is_the_class_of_the_nearest_example(tasks):
    episode = tasks.sample(2)
    labels = mb.NearestNeighbour().predict(
        episode.support_x, episode.support_y, episode.query_x
    )
    for t in range(2):
        for q in range(15):
            gaps = (
                (episode.support_x[t] - episode.query_x[t, q])
                .flatten(1)
                .norm(dim=1)
            )
            assert labels[t, q] == episode.support_y[t, gaps.argmin()]


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_a_new_head_fits_its_support_set_and_leaves_the_features_alone(
    head, tasks
):
    episode = tasks.sample(2)
    learner = mb.FineTuning(torch.nn.Flatten(), head=head, steps=200, lr=0.05)
    labels = learner.predict(
        episode.support_x, episode.support_y, episode.support_x
    )
    assert torch.equal(labels, episode.support_y)
    features = mb.Conv4(width=8)
    before = [p.clone() for p in features.parameters()]
    mb.evaluate(mb.FineTuning(features, head=head, steps=5), tasks, episodes=3)
    assert all(
        torch.equal(a, b) and b.grad is None
        for a, b in zip(before, features.parameters(), strict=True)
    )


@pytest.mark.parametrize("batch", [4, 32])
def test_training_all_weights_fits_the_support_set_and_leaves_the_network_alone(
    batch, tasks
):
    features = mb.Conv4(width=8)
    before = copy.deepcopy(features.state_dict())
    episode = tasks.sample(2)
    learner = mb.FullFineTuning(features, steps=60, lr=0.01, batch=batch)
    labels = learner.predict(
        episode.support_x, episode.support_y, episode.support_x
    )
    assert (labels == episode.support_y).double().mean() > 0.9
    assert all(
        torch.equal(a, before[name])
        for name, a in features.state_dict().items()
    )
    assert all(p.grad is None for p in features.parameters())


def test_training_all_weights_is_the_plain_loop(tasks):
    episode = tasks.sample(1)
    features = mb.MLP(784, 6, hidden=(8,))
    net = torch.nn.Sequential(copy.deepcopy(features), torch.nn.Linear(6, 5))
    torch.nn.init.zeros_(net[1].weight), torch.nn.init.zeros_(net[1].bias)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(7):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(
            net(episode.support_x[0]), episode.support_y[0]
        ).backward()
        optimizer.step()
    got = mb.FullFineTuning(features, steps=7, lr=0.01)(
        episode.support_x, episode.support_y, episode.query_x
    )
    assert torch.allclose(got[0], net(episode.query_x[0]), atol=1e-6)


def test_centring_and_normalising_are_what_they_say():
    x = torch.randn(1, 4, 6)
    center = torch.randn(6)
    z = mb.NearestCentroid(torch.nn.Flatten(), center=center).embed(x)
    assert torch.allclose(z, torch.nn.functional.normalize(x - center, dim=-1))
    assert torch.equal(
        mb.NearestCentroid(torch.nn.Flatten(), normalize=False).embed(x), x
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda net, **options: mb.ProtoNet(net, **options),
        lambda net, **options: mb.MatchingNet(net, **options),
        lambda net, **options: mb.RelationNet(net, features=32, **options),
    ],
)
def test_half_precision_in_the_embedding_keeps_the_direction_of_the_gradient(
    make, images
):
    plain = make(mb.Conv4(width=32))
    mb.train(
        plain, mb.FewShotTasks(images, 10, 1, 3, seed=1), 30, 1, progress=False
    )
    half = make(copy.deepcopy(plain.embedding), embedding_dtype=torch.bfloat16)
    half.load_state_dict(plain.state_dict())
    episode = mb.FewShotTasks(images, 20, 2, 3, seed=0).sample(1)
    parts = episode.support_x, episode.support_y, episode.query_x
    assert torch.equal(plain.eval()(*parts), half.eval()(*parts)), (
        "evaluation keeps its precision"
    )
    assert half.train()(*parts).dtype == torch.float32, "and so do the scores"
    gradients = []
    for learner in (plain, half):
        learner.train().zero_grad()
        learner.backward(episode)
        assert all(p.grad.dtype == torch.float32 for p in learner.parameters())
        gradients.append(
            torch.cat([p.grad.flatten() for p in learner.parameters()])
        )
    assert 0 < (gradients[1] - gradients[0]).norm() < 0.25 * gradients[0].norm()
    assert torch.cosine_similarity(*gradients, dim=0) > 0.97
    assert "bfloat16" in repr(half)
    assert "bfloat16" not in repr(plain)


@pytest.mark.parametrize("learner", [mb.FineTuning, mb.FullFineTuning])
def test_what_is_not_meta_learned_says_so_where_it_would_be_trained(
    learner, tasks
):
    with pytest.raises(
        NotImplementedError,
        match="FineTuning learns nothing across tasks, .* as by mb.ProtoNet",
    ):
        mb.train(learner(mb.Conv4(width=4)), tasks, 1, 1, progress=False)
    # the way out
    embedding = mb.Conv4(width=4)
    mb.train(mb.ProtoNet(embedding), tasks, 1, 1, progress=False)
    assert mb.evaluate(learner(embedding), tasks, episodes=2).n == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_a_learner_adds_to_a_network_is_of_its_type(dtype):
    net = mb.Conv4(width=4).to(dtype)
    for learner in (
        mb.ProtoNet(net, learn_temperature=True),
        mb.MatchingNet(net),
        mb.RelationNet(net, features=4),
    ):
        assert {p.dtype for p in learner.parameters()} == {dtype}
    assert mb.MatchingNet(net, scale=7.0).scale == pytest.approx(7)


def test_dropout_in_fine_tuning_has_random_numbers_of_its_own(tasks):
    net = nn.Sequential(mb.Conv4(width=4), nn.Dropout(0.5))
    learner, e = mb.FullFineTuning(net, steps=3).eval(), tasks.sample(2)
    before = torch.get_rng_state()
    a, b = (learner(e.support_x, e.support_y, e.query_x) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state())
    without = mb.FullFineTuning(net[0], steps=3).eval()
    c = without(e.support_x, e.support_y, e.query_x)
    assert not torch.allclose(a, c)
