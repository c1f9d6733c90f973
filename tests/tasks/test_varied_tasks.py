# SPDX-License-Identifier: MIT
"""Tasks of unequal way and shot: drawn as promised, averaged one by one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import small_conv
from learners import BASELINES, LEARNERS
from scipy.stats import chisquare
from test_tasks import numbered_images, read
from torch import nn

import metabook as mb
from metabook.tasks.episode import as_episodes

PARTS = ("support_x", "support_y", "query_x", "query_y")
NEEDS_A_WAY = [
    name
    for name in LEARNERS
    if not any(s in name for s in ("protonet", "matching", "relation"))
]


def same(a, b):
    return all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in PARTS
    )


def alone(tasks):
    """The same tasks as a list with T = 1 each."""

    class Listed:
        def sample(self, n, start=0):
            return [*tasks.sample(n, start).tasks()]

    return Listed()


def test_ways_and_shots_cover_their_ranges_evenly():
    ways, shots = [], []
    for episode in mb.VariedTasks(
        numbered_images(), way=(3, 7), shot=(1, 4), query=2, seed=0
    ).sample(500):
        labels, counts = episode.support_y[0].unique(return_counts=True)
        assert labels.tolist() == list(range(len(labels)))
        assert episode.query_y[0].bincount().tolist() == [2] * len(labels)
        ways.append(len(labels))
        shots += counts.tolist()
    for values, ends in ((ways, (3, 7)), (shots, (1, 4))):
        assert (min(values), max(values)) == ends
        assert chisquare(np.bincount(values)[ends[0] :]).pvalue > 1e-3


def test_a_task_has_distinct_classes_and_no_example_twice():
    for episode in mb.VariedTasks(
        numbered_images(), way=(2, 9), shot=(1, 5), query=3, seed=1
    ).sample(200):
        support, query = read(episode.support_x)[0], read(episode.query_x)[0]
        classes = {}
        for pairs, labels in (
            (support, episode.support_y[0]),
            (query, episode.query_y[0]),
        ):
            for (c, _), y in zip(pairs.tolist(), labels.tolist(), strict=True):
                assert classes.setdefault(y, c) == c, (
                    "a label stands for one class"
                )
        assert len(set(classes.values())) == len(classes)
        seen = [tuple(pair) for pair in support.tolist() + query.tolist()]
        assert len(set(seen)) == len(seen)


def test_a_task_depends_on_seed_and_index_alone():
    tasks = mb.VariedTasks(
        numbered_images(), way=(2, 6), shot=(1, 3), query=2, seed=5
    )
    whole = tasks.sample(20)
    for first in (0, 7, 19):
        assert same(tasks.sample(1, start=first)[0], whole[first])
    other = mb.VariedTasks(
        numbered_images(), way=(2, 6), shot=(1, 3), query=2, seed=6
    ).sample(20)
    assert not any(
        a.support_x.shape == b.support_x.shape and same(a, b)
        for a, b in zip(whole, other, strict=True)
    )


def test_with_one_way_and_one_shot_the_tasks_are_those_of_few_shot_tasks():
    images = numbered_images()
    varied = mb.VariedTasks(images, way=5, shot=2, query=3, seed=4).sample(
        30, start=3
    )
    batch = mb.FewShotTasks(images, way=5, shot=2, query=3, seed=4).sample(
        30, start=3
    )
    assert all(same(a, b) for a, b in zip(varied, batch.tasks(), strict=True))


def test_a_small_class_gives_what_its_queries_leave():
    images = mb.LabelledImages(
        np.zeros((14, 4, 4), np.uint8), [0] * 10 + [1] * 4
    )
    for episode in mb.VariedTasks(
        images, way=2, shot=(1, 7), query=3, seed=0
    ).sample(60):
        assert episode.support_y[0].bincount().min() == 1
    with pytest.raises(
        ValueError,
        match="class '1' has 4 examples; 2-shot with 3 queries needs 5",
    ):
        mb.VariedTasks(images, way=2, shot=(2, 7), query=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"way": (5, 31)},
            "a 31-way task needs 31 classes; these images have 30",
        ),
        (
            {"way": (6, 5)},
            (
                r"way is \(6, 5\); it is a number from 1, or a smallest and a"
                r" largest one"
            ),
        ),
        ({"shot": 0}, "shot is 0; it is a number from 1"),
        ({"query": 0}, "query is 0; it must be at least 1"),
    ],
)
def test_impossible_sizes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        mb.VariedTasks(
            numbered_images(), **({"way": 5, "shot": 1, "query": 2} | change)
        )


def gradients(learner, step):
    learner.zero_grad()
    torch.manual_seed(0)
    loss = step()
    return loss, [
        None if p.grad is None else p.grad.clone() for p in learner.parameters()
    ]


@pytest.mark.parametrize("name", LEARNERS)
def test_the_gradient_of_tasks_one_by_one_is_that_of_the_batch(name, tasks):
    """For every learner: also a MAML++ must not count tasks as iterations."""
    torch.manual_seed(0)
    # without dropout's random numbers
    learner = LEARNERS[name]().double().eval()
    batch = tasks.sample(3).to(torch.float64)
    state = {k: v.clone() for k, v in learner.state_dict().items()}
    loss, expected = gradients(learner, lambda: learner.backward(batch))
    after = {k: v.clone() for k, v in learner.state_dict().items()}
    learner.load_state_dict(state)
    loss_each, each = gradients(
        learner, lambda: learner.backward_each(batch.tasks())
    )
    assert loss_each == pytest.approx(loss, rel=1e-9)
    for a, b in zip(each, expected, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=1e-7, atol=1e-10)
    assert all(
        torch.allclose(after[k], v) for k, v in learner.state_dict().items()
    )


def test_unequal_tasks_are_averaged_over_tasks_and_added_to_the_gradient(
    images,
):
    torch.manual_seed(0)
    learner = mb.ProtoNet(small_conv(norm="batch")).double().eval()
    episodes = [
        e.to(torch.float64)
        for e in mb.VariedTasks(
            images, way=(3, 8), shot=(1, 4), query=2
        ).sample(4)
    ]
    loss = torch.stack([learner.loss(e) for e in episodes]).mean()
    expected = torch.autograd.grad(loss, list(learner.parameters()))
    for p in learner.parameters():
        p.grad = torch.ones_like(p)
    assert learner.backward_each(episodes) == pytest.approx(loss.item())
    for p, g in zip(learner.parameters(), expected, strict=True):
        assert torch.allclose(p.grad, 1 + g, atol=1e-12)


def test_training_on_a_list_is_training_on_the_batch(tasks):
    learners = []
    for source in (tasks, alone(tasks)):
        torch.manual_seed(0)
        learner = mb.ProtoNet(small_conv(norm="batch")).double()
        source_64 = type(
            "Double",
            (),
            {
                "sample": lambda self, n, start=0, s=source: to_double(
                    s.sample(n, start)
                )
            },
        )()
        history = mb.train(
            learner, source_64, iterations=3, tasks_per_batch=4, progress=False
        )
        learners.append((learner, history.losses))
    (a, losses_a), (b, losses_b) = learners
    assert losses_a == pytest.approx(losses_b, rel=1e-9)
    for x, y in zip(
        a.state_dict().values(), b.state_dict().values(), strict=True
    ):
        assert torch.allclose(x, y, rtol=1e-7, atol=1e-10)


def to_double(sample):
    return (
        [e.to(torch.float64) for e in sample]
        if isinstance(sample, list)
        else sample.to(torch.float64)
    )


@pytest.mark.parametrize("name", [*LEARNERS, *BASELINES])
def test_every_learner_is_scored_alike_on_a_list_and_on_the_batch(name, tasks):
    learner = (LEARNERS | BASELINES)[name]()
    a, b = (
        mb.evaluate(learner, source, episodes=5, batch=2).scores
        for source in (tasks, alone(tasks))
    )
    assert np.abs(a - b).max() <= 1 / 15 + 1e-9, (
        "rounding may turn a single query"
    )


@pytest.mark.parametrize("name", [*LEARNERS, *BASELINES])
def test_every_learner_that_can_learns_and_is_scored_on_unequal_tasks(
    name, images
):
    fixed = name in NEEDS_A_WAY
    tasks = mb.VariedTasks(
        images, way=5 if fixed else (3, 8), shot=(1, 4), query=2, seed=0
    )
    learner = (LEARNERS | BASELINES)[name]()
    if name in LEARNERS:
        history = mb.train(
            learner, tasks, 2, 3, valid=tasks, valid_episodes=3, progress=False
        )
        assert len(history.losses) == 2
    assert mb.evaluate(learner, tasks, episodes=5).n == 5
    if hasattr(learner, "forward_each_step"):
        assert [
            s.n for s in mb.evaluate_steps(learner, tasks, steps=2, episodes=5)
        ] == [5, 5, 5]


def test_a_comparison_takes_lists(images):
    tasks = mb.VariedTasks(images, way=(3, 8), shot=(1, 4), query=2, seed=0)
    learner = mb.NearestCentroid(nn.Flatten())
    assert (
        mb.compare(learner, mb.NearestNeighbour(), tasks, episodes=7).first.n
        == 7
    )
    assert (
        mb.compare(learner, learner, tasks, episodes=7).differences.tolist()
        == [0] * 7
    )
    assert np.array_equal(
        *(
            mb.evaluate(learner, tasks, episodes=9, batch=b).scores
            for b in (1, 4)
        )
    )


def test_a_head_of_fixed_width_refuses_another_way_by_name(images):
    learner = mb.MAML(mb.MLP(784, 5), inner_lr=0.1)
    tasks = mb.VariedTasks(images, way=7, shot=(1, 4), query=2)
    for run in (
        mb.evaluate,
        mb.evaluate_steps,
        lambda a, b, episodes: mb.train(a, b, 1, episodes, progress=False),
    ):
        with pytest.raises(
            ValueError,
            match="the model has 5 outputs but the tasks have 7 classes",
        ):
            run(learner, tasks, episodes=2)


def test_a_resumed_run_ends_with_the_same_bits_and_other_ranges_are_refused(
    images, tmp_path
):
    def fresh():
        torch.manual_seed(3)
        return mb.ProtoNet(small_conv(norm="batch"))

    tasks = mb.VariedTasks(images, way=(3, 5), shot=(1, 2), query=2)
    straight, resumed = fresh(), fresh()
    mb.train(straight, tasks, 4, 2, progress=False)
    mb.train(fresh(), tasks, 2, 2, checkpoint=tmp_path, progress=False)
    mb.train(resumed, tasks, 4, 2, checkpoint=tmp_path, progress=False)
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            straight.parameters(), resumed.parameters(), strict=True
        )
    )
    for other in (
        mb.VariedTasks(images, way=(3, 6), shot=(1, 2), query=2),
        mb.VariedTasks(images, (3, 5), (1, 3), 2),
    ):
        with pytest.raises(ValueError, match=r"tasks\.(way|shot)\[1\] \(was"):
            mb.train(fresh(), other, 5, 2, checkpoint=tmp_path, progress=False)


def test_a_prediction_that_is_not_finite_is_named_by_its_episode(images):
    tasks = mb.VariedTasks(images, way=(3, 5), shot=(1, 2), query=2)

    class Poisoned:
        def sample(self, n, start=0):
            episodes = tasks.sample(n, start)
            if start == 4:
                e = episodes[1]
                episodes[1] = mb.Episode(
                    e.support_x,
                    e.support_y,
                    e.query_x * float("nan"),
                    e.query_y,
                )
            return episodes

    with pytest.raises(
        FloatingPointError,
        match="a prediction in episodes 5 to 5 is not finite",
    ):
        mb.evaluate(
            mb.NearestCentroid(nn.Flatten()), Poisoned(), episodes=8, batch=4
        )


def test_a_list_of_other_things_is_refused(tasks):
    episode = tasks.sample(2)
    with pytest.raises(
        ValueError,
        match=r"episode 0 of the list has 2 tasks; .* \[\*episode.tasks\(\)\]",
    ):
        as_episodes([episode])
    with pytest.raises(ValueError, match="empty list"):
        as_episodes([])
    with pytest.raises(
        ValueError, match="a list with a Tensor; it must hold Episodes"
    ):
        as_episodes([episode.support_x])


def test_regression_tasks_may_come_as_a_list():
    waves = mb.Sinusoids(shot=5, query=7)
    learner = mb.MAML(mb.MLP(1, 1), inner_lr=0.01, loss_fn=F.mse_loss)
    a, b = (
        mb.evaluate(learner, source, episodes=9).scores
        for source in (waves, alone(waves))
    )
    assert np.allclose(a, b, rtol=1e-4)
