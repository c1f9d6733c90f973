# SPDX-License-Identifier: MIT
"""Episodes and where they come from."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import metabook as mb
from metabook.data.random import (
    random_bits,
    random_choice,
    random_normal,
    random_uniform,
)


def numbered_images(classes=30, examples=8):
    """Images whose first pixel is their class and whose second is their number:
    a sampler cannot hide anything.
    """
    pixels = np.zeros((classes, examples, 2, 2), np.uint8)
    pixels[:, :, 0, 0] = np.arange(classes)[:, None]
    pixels[:, :, 0, 1] = np.arange(examples)
    return mb.LabelledImages(
        pixels.reshape(-1, 2, 2), np.repeat(np.arange(classes), examples)
    )


def read(x):
    """The (class, number) of every image, from its pixels."""
    return (255 * x[..., 0, 0, :]).round().long()


def test_a_task_has_distinct_classes_and_no_example_twice():
    episode = mb.FewShotTasks(
        numbered_images(), way=5, shot=2, query=3, seed=0
    ).sample(500)
    support, query = read(episode.support_x), read(episode.query_x)
    for t in range(len(episode)):
        classes = {}
        for (c, _), y in zip(
            support[t].tolist(), episode.support_y[t].tolist(), strict=True
        ):
            classes.setdefault(y, set()).add(c)
        assert all(len(c) == 1 for c in classes.values()), (
            "a label stands for one class"
        )
        assert len(set.union(*classes.values())) == 5, (
            "five labels stand for five classes"
        )
        for (c, _), y in zip(
            query[t].tolist(), episode.query_y[t].tolist(), strict=True
        ):
            assert classes[y] == {c}, (
                "a label means the same class in support and query"
            )
        seen = [tuple(pair) for pair in support[t].tolist() + query[t].tolist()]
        assert len(set(seen)) == len(seen) == 5 * (2 + 3), "no drawing twice"


@pytest.mark.parametrize("batch", [1, 3, 10])
@pytest.mark.parametrize("waves", [False, True])
def test_a_task_depends_on_seed_and_index_alone(batch, waves):
    tasks = (
        mb.Sinusoids(shot=3, query=4, seed=5)
        if waves
        else mb.FewShotTasks(numbered_images(), 5, 1, 2, seed=5)
    )
    whole = tasks.sample(30)
    for first in range(0, 30, batch):
        part = tasks.sample(batch, start=first)
        for name in ("support_x", "support_y", "query_x", "query_y"):
            assert torch.equal(
                getattr(part, name), getattr(whole, name)[first : first + batch]
            )


def test_another_seed_gives_other_tasks():
    images = numbered_images()
    a, b = (
        mb.FewShotTasks(images, 5, 1, 1, seed=s).sample(20).support_x
        for s in (0, 1)
    )
    assert (a != b).flatten(1).any(1).all()


def test_every_class_gets_every_label_equally_often():
    """Otherwise labels could be memorised instead of learned from the support
    set.
    """
    episode = mb.FewShotTasks(
        numbered_images(classes=12), way=4, shot=1, query=1, seed=3
    ).sample(6000)
    classes = read(episode.support_x)[..., 0]
    table = np.zeros((12, 4))
    np.add.at(
        table,
        (classes.flatten().numpy(), episode.support_y.flatten().numpy()),
        1,
    )
    assert chisquare(table.ravel()).pvalue > 1e-3


def test_pairs_of_classes_and_single_drawings_are_equally_likely():
    rows = mb.FewShotTasks(
        numbered_images(classes=7, examples=5), way=2, shot=2, query=1, seed=1
    ).indices(20_000)
    classes = rows[:, :, 0] // 5
    pairs = np.unique(classes, axis=0, return_counts=True)[1]
    assert len(pairs) == 7 * 6
    assert chisquare(pairs).pvalue > 1e-3
    triples = np.unique(rows[:, 0] % 5, axis=0, return_counts=True)[1]
    assert len(triples) == 5 * 4 * 3
    assert chisquare(triples).pvalue > 1e-3


def test_every_drawing_of_every_class_is_support_and_query_equally_often():
    """Also where classes have different numbers of drawings, and a task takes
    nearly all of the smallest.
    """
    counts = np.array([7, 12, 9, 30, 8])
    images = mb.LabelledImages(
        np.zeros((counts.sum(), 2, 2), np.uint8),
        np.repeat(np.arange(5), counts),
    )
    tasks = mb.FewShotTasks(images, way=3, shot=2, query=4, seed=8)
    rows = tasks.indices(20_000)  # (T, 3, 6)
    for positions in (
        rows[:, :, :1],
        rows[:, :, :2],
        rows[:, :, 2:],
        rows[:, 1:2, 5:],
    ):
        times = np.bincount(positions.ravel(), minlength=counts.sum())
        expected = np.repeat(positions.size / 5 / counts, counts)
        # draws without replacement vary less than independent ones: a small p
        # still accuses, a large one is no proof
        assert chisquare(times, expected).pvalue > 1e-3


def test_what_one_class_draws_says_nothing_about_what_another_draws():
    rows = (
        mb.FewShotTasks(
            numbered_images(classes=7, examples=6),
            way=3,
            shot=1,
            query=2,
            seed=6,
        ).indices(20_000)
        % 6
    )
    for a, b in (((0, 0), (1, 0)), ((0, 0), (2, 2)), ((1, 1), (2, 1))):
        pairs = np.unique(
            np.stack([rows[(slice(None), *a)], rows[(slice(None), *b)]], 1),
            axis=0,
            return_counts=True,
        )[1]
        assert len(pairs) == 36
        assert chisquare(pairs).pvalue > 1e-3


@pytest.mark.parametrize(
    ("population", "k"),
    [(1, 1), (6, 6), (20, 16), (1000, 5), (np.arange(9, 209), 9)],
)
def test_selections_are_those_of_the_algorithm_written_out(population, k):
    """Floyd's, a row at a time in plain Python, and then the shuffle."""
    seeds = random_bits(3, np.arange(200))
    for seed, size, chosen in zip(
        seeds,
        np.broadcast_to(population, 200),
        random_choice(seeds, population, k),
        strict=True,
    ):
        floyd = []
        for j in range(k):
            draw = int(random_uniform(seed, j) * (size - k + j + 1))
            floyd.append(size - k + j if draw in floyd else draw)
        keys = [int(random_bits(seed, k + j)) for j in range(k)]
        assert chosen.tolist() == [
            floyd[j] for j in sorted(range(k), key=keys.__getitem__)
        ]


def test_the_order_of_a_selection_is_uniform_too():
    chosen = random_choice(random_bits(5, np.arange(48_000)), population=5, k=3)
    times = np.unique(chosen, axis=0, return_counts=True)[1]
    assert len(times) == 5 * 4 * 3
    assert chisquare(times).pvalue > 1e-3


def test_selections_have_no_repetition_even_when_everything_is_taken():
    chosen = random_choice(random_bits(0, np.arange(1000)), population=6, k=6)
    assert (np.sort(chosen, axis=1) == np.arange(6)).all()


def test_uniform_and_normal_numbers_have_their_moments():
    u, z = (
        random_uniform(0, np.arange(100_000)),
        random_normal(1, np.arange(100_000)),
    )
    assert 0 < u.min() < u.max() < 1
    assert abs(u.mean() - 0.5) < 0.004
    assert abs(u.var() - 1 / 12) < 0.002
    assert abs(z.mean()) < 0.015
    assert abs(z.var() - 1) < 0.03
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.015


def test_train_valid_and_test_classes_are_disjoint_as_sampled():
    parts = numbered_images(classes=40).split(0.6, 0.2, 0.2, seed=0)
    seen = [
        set(
            read(mb.FewShotTasks(p, 5, 1, 1).sample(400).support_x)[..., 0]
            .flatten()
            .tolist()
        )
        for p in parts
    ]
    assert [len(s) for s in seen] == [24, 8, 8]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])


def test_rotations_of_a_class_stay_in_one_part():
    base = numbered_images(classes=20)
    turned = mb.LabelledImages(
        base.images, np.repeat(np.arange(20), 8), groups=np.arange(20) // 4
    )
    train, test = turned.split(0.6, 0.4, seed=1)
    assert not set(train.groups) & set(test.groups)
    assert len(train.names) == 12


def test_sinusoids_are_the_sines_they_claim_to_be():
    waves = mb.Sinusoids(shot=5, query=6, seed=2)
    episode, (amplitude, phase) = waves.sample(50), waves.waves(50)
    expected = amplitude[:, None, None] * np.sin(
        episode.query_x.numpy() - phase[:, None, None]
    )
    assert np.allclose(episode.query_y.numpy(), expected, atol=1e-5)
    assert amplitude.min() >= 0.1
    assert amplitude.max() <= 5
    assert episode.support_x.abs().max() <= 5


def test_too_small_classes_and_too_many_ways_are_named():
    small = mb.LabelledImages(
        np.zeros((5, 4, 4), np.uint8), [0, 0, 0, 1, 1], names=["fish", "bird"]
    )
    with pytest.raises(
        ValueError,
        match=(
            r"class 'bird' has 2 examples; 1-shot with 15 queries needs 16:"
            r" images.at_least\(16\) leaves such classes out"
        ),
    ):
        mb.FewShotTasks(small, way=2, shot=1, query=15)
    large = small.at_least(3)  # the way out
    assert len(mb.FewShotTasks(large, way=1, shot=1, query=2).sample(1)) == 1
    with pytest.raises(
        ValueError, match="5-way task needs 5 classes; these images have 2"
    ):
        mb.FewShotTasks(small, way=5, shot=1, query=1)
    with pytest.raises(ValueError, match="shot is 0"):
        mb.FewShotTasks(small, way=2, shot=0, query=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"support_y": torch.zeros(2, 4)}, "support_x is .* but support_y is"),
        ({"support_x": torch.zeros(2)}, "starts with .tasks, examples."),
        (
            {"query_x": torch.zeros(2, 3, 9)},
            "a support example is .7,. but a query example is .9,.",
        ),
        (
            {"query_x": torch.zeros(3, 3, 7), "query_y": torch.zeros(3, 3)},
            "2 tasks in the support set but 3",
        ),
        (
            {"query_y": torch.zeros(2, 3).long()},
            "support_y is torch.float32 but query_y is torch.int64",
        ),
        ({"support_x": [[1.0]]}, "support_x is a list"),
        (
            {"query_x": torch.zeros(2, 0, 7), "query_y": torch.zeros(2, 0)},
            "at least one task and one example",
        ),
    ],
)
def test_an_episode_of_parts_that_do_not_fit_is_refused(change, message):
    parts = {
        "support_x": torch.zeros(2, 5, 7),
        "support_y": torch.zeros(2, 5),
        "query_x": torch.zeros(2, 3, 7),
        "query_y": torch.zeros(2, 3),
    }
    with pytest.raises(ValueError, match=message):
        mb.Episode(**(parts | change))


def test_an_episode_moves_to_another_dtype_without_touching_its_labels(tasks):
    moved = tasks.sample(2).to("cpu", torch.float64)
    assert moved.support_x.dtype == torch.float64
    assert moved.support_y.dtype == torch.int64


def test_class_names_are_those_of_the_labels_of_each_task():
    images = numbered_images()
    images.names = [f"kind {c}" for c in range(30)]
    batch = mb.FewShotTasks(images, way=5, shot=1, query=2, seed=0).sample(20)
    varied = mb.VariedTasks(images, way=(2, 5), shot=1, query=2, seed=0)
    for episode in [batch, *varied.sample(20)]:
        classes = read(episode.support_x)[..., 0]
        for t, names in enumerate(episode.class_names):
            assert names == tuple(f"kind {c}" for c in classes[t].tolist())
            assert episode.support_y[t].tolist() == list(range(len(names)))


def test_class_names_stay_with_their_tasks(tasks):
    episode = tasks.sample(5)
    names = episode.class_names
    assert episode.to(torch.float64).class_names == names
    assert [e.class_names for e in episode.split(2)] == [
        names[:2],
        names[2:4],
        names[4:],
    ]
    assert [e.class_names for e in episode.tasks()] == [(n,) for n in names]
    waves = mb.Sinusoids().sample(4)
    assert waves.class_names is None
    assert [e.class_names for e in waves.to("cpu").split(2)] == [None, None]
    parts = (episode.support_x, episode.support_y)
    with pytest.raises(ValueError, match="those of 4 tasks, but there are 5"):
        mb.Episode(*parts, *parts, class_names=names[:4])


@pytest.mark.parametrize("seed", [0.9, -1, "0", None, 2**64])
@pytest.mark.parametrize(
    "make",
    [
        lambda seed: mb.FewShotTasks(numbered_images(), 5, 1, 1, seed=seed),
        lambda seed: mb.VariedTasks(numbered_images(), 5, 1, 1, seed=seed),
        lambda seed: mb.Sinusoids(seed=seed),
        lambda seed: mb.glyphs(classes=2, seed=seed),
        lambda seed: numbered_images().split(0.5, 0.5, seed=seed),
        lambda seed: numbered_images().split_examples(0.5, 0.5, seed=seed),
    ],
    ids=["few", "varied", "waves", "glyphs", "split", "split_examples"],
)
def test_what_is_no_seed_is_named(make, seed):
    make(np.int64(3))  # numpy's integers are
    with pytest.raises(ValueError, match=f"seed is {seed!r}; it must be an"):
        make(seed)


def test_tasks_are_recognised_by_their_method(tasks, images):
    assert isinstance(tasks, mb.Tasks)
    assert isinstance(mb.Sinusoids(), mb.Tasks)
    assert not isinstance(images, mb.Tasks)
