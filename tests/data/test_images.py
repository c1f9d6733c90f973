# SPDX-License-Identifier: MIT
"""Labelled examples of every kind, and their parts."""

import numpy as np
import pytest
import torch
from conftest import small_conv
from torch.utils.data import DataLoader

import metabook as mb
from metabook.training.embedded import EmbeddedImages


def of_counts(*counts, **options):
    """Examples (class, number): nothing can be hidden."""
    rows = [(c, i) for c, n in enumerate(counts) for i in range(n)]
    return mb.LabelledImages(
        torch.tensor(rows, dtype=torch.float32), [c for c, _ in rows], **options
    )


KINDS = {
    "grey": (torch.zeros(6, 4, 5, dtype=torch.uint8), "images of 1 x 4 x 5"),
    "colour": (np.zeros((6, 3, 4, 5), np.uint8), "images of 3 x 4 x 5"),
    "signals": (np.zeros((6, 2, 90), "f4"), "examples of 2 x 90, float32"),
    "vectors": (np.zeros((6, 7)), "examples of 7, float64"),
    "half": (torch.zeros(6, 7).bfloat16(), "examples of 7, bfloat16"),
    "tokens": (np.zeros((6, 8), np.int64), "examples of 8, int64"),
    "short tokens": (np.zeros((6, 8), np.int32), "examples of 8, int32"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_examples_of_every_kind_are_drawn_as_they_are(kind):
    values, said = KINDS[kind]
    data = mb.LabelledImages(values, [2, 1, 0, 0, 1, 2])
    assert repr(data) == f"LabelledImages(3 classes, 6 {said})"
    shape, dtype = data.images.shape[1:], data.images.dtype
    dtype = torch.float32 if dtype == torch.uint8 else dtype
    drawn = data.pixels(torch.tensor([[0, 1, 5], [3, 2, 2]]))
    assert (drawn.shape, drawn.dtype) == ((2, 3, *shape), dtype)
    episode = mb.FewShotTasks(data, way=2, shot=1, query=1).sample(4)
    assert episode.query_x.shape == (4, 2, *shape)
    assert episode.query_x.dtype == dtype


def test_bytes_are_pixels_in_the_unit_interval_and_floats_are_left_alone():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1)
    data = mb.LabelledImages(pixels, [0, 1, 2])
    assert data.pixels(torch.arange(3)).flatten().tolist() == [
        0,
        pytest.approx(0.2),
        1,
    ]
    floats = mb.LabelledImages(pixels.float(), [0, 1, 2])
    assert floats.pixels(torch.arange(3)).flatten().tolist() == [0, 51, 255]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([30, -2, 30, 7, -2, 7], ["-2", "7", "30"]),
        (["b", "c", "b", "a", "c", "a"], ["a", "b", "c"]),
        (np.array(["b", "c", "b", "a", "c", "a"], object), ["a", "b", "c"]),
        (torch.tensor([9, 3, 9, 5, 3, 5]), ["3", "5", "9"]),
        (np.array([1, 2, 1, 0, 2, 0], np.uint8), ["0", "1", "2"]),
    ],
)
def test_labels_are_any_integers_or_strings(labels, names):
    data = mb.LabelledImages(torch.arange(6.0)[:, None], labels)
    assert data.names == names
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.labels.dtype == torch.int64
    kinds = [str(label) for label in np.asarray(labels).tolist()]
    for value, label in data:
        assert kinds[int(value)] == names[label]


def test_examples_are_had_by_their_rows():
    data = of_counts(3, 2)
    value, label = data[3]
    assert (value.tolist(), label, type(label)) == ([1, 0], 1, int)
    assert data[-1][0].tolist() == [1, 1]
    for rows in (
        slice(1, 4),
        [1, 2, 3],
        np.array([1, 2, 3]),
        torch.tensor([1, 2, 3]),
        torch.tensor([False, True, True, True, False]),
    ):
        values, labels = data[rows]
        assert values.tolist() == [[0, 1], [0, 2], [1, 0]]
        assert labels.tolist() == [0, 0, 1]
    for row in (5, -6, [5]):
        with pytest.raises(IndexError):
            data[row]
    assert len(list(data)) == 5, "so it can be iterated"


@pytest.mark.parametrize("workers", [0, 1])
def test_torch_loads_batches_from_them(workers):
    data = mb.glyphs(classes=3, examples=4, seed=0)
    loader = DataLoader(data, batch_size=5, num_workers=workers)
    batches = list(loader)
    assert [len(x) for x, _ in batches] == [5, 5, 2]
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    assert torch.equal(x, data.pixels(torch.arange(12)))
    assert torch.equal(y, data.labels)


class Marked(mb.LabelledImages):
    """A subclass with something of its own."""

    mark = "its own"


@pytest.mark.parametrize(
    "take",
    [
        lambda data: data.subset([2, 0]),
        lambda data: data.split(0.5, 0.5)[0],
        lambda data: data.split_examples(0.5, 0.5)[0],
        lambda data: data.at_least(6),
    ],
)
def test_parts_are_of_the_same_class_and_leave_the_whole_alone(take):
    values = torch.randn(24, 2)
    data = Marked(values, np.repeat(np.arange(4), 6))
    part = take(data)
    assert type(part) is Marked
    assert part.mark == "its own"
    assert repr(part).startswith("Marked(")
    assert torch.equal(data.images, values)
    assert (len(data), data.counts.tolist()) == (24, [6] * 4)
    assert len(part.labels) == len(part) == part.counts.sum()


def test_parts_of_embedded_images_hold_their_vectors():
    images = mb.glyphs(classes=4, examples=6, seed=0)
    learner = mb.ProtoNet(small_conv(norm="batch")).eval()
    vectors = EmbeddedImages(images, learner)
    for take in (
        lambda data: data.subset([2, 0]),
        lambda data: data.split(0.5, 0.5)[1],
        lambda data: data.split_examples(0.5, 0.5)[1],
    ):
        part = take(vectors)
        assert type(part) is EmbeddedImages
        rows = torch.arange(len(part))
        with torch.no_grad():
            expected = learner.embed(take(images).pixels(rows)[None])[0]
        assert torch.allclose(part.pixels(rows), expected, atol=1e-5)
        assert torch.equal(part.vectors, part.pixels(rows))


def test_a_subset_is_numbered_in_the_order_given():
    data = of_counts(3, 2, 4, names=["a", "b", "c"], groups=[7, 8, 9])
    part = data.subset([2, 0])
    assert part.names == ["c", "a"]
    assert part.groups.tolist() == [9, 7]
    assert part.images[:, 0].tolist() == [2] * 4 + [0] * 3
    assert part.labels.tolist() == [0] * 4 + [1] * 3
    assert part.offsets.tolist() == [0, 4]


def test_splitting_the_examples_puts_each_in_one_part_and_every_class_in_all():
    data = of_counts(10, 20, 7, partition=["train", "valid", "test"])
    parts = data.split_examples(0.6, 0.2, 0.2, seed=3)
    seen = [tuple(row) for part in parts for row in part.images.int().tolist()]
    assert sorted(seen) == [tuple(r) for r in data.images.int().tolist()]
    assert [part.counts.tolist() for part in parts] == [
        [6, 12, 4],
        [2, 4, 2],
        [2, 4, 1],
    ]
    for part in parts:
        assert part.names == data.names
        assert part.partition == data.partition
        assert part.labels.tolist() == part.images[:, 0].tolist()
    again = data.split_examples(0.6, 0.2, 0.2, seed=3)
    other = data.split_examples(0.6, 0.2, 0.2, seed=4)
    assert torch.equal(again[0].images, parts[0].images)
    assert not torch.equal(other[0].images, parts[0].images)


def test_splitting_the_examples_leaves_out_what_no_fraction_asks_for():
    train, test = of_counts(10, 10).split_examples(0.5, 0.2)
    assert (len(train), len(test)) == (10, 4)


def test_every_example_goes_into_every_part_equally_often():
    data = of_counts(8, 4)
    times = np.zeros(12)
    for seed in range(2000):
        part = data.split_examples(0.25, 0.75, seed=seed)[0].images
        np.add.at(times, (part[:, 0] * 8 + part[:, 1]).int().numpy(), 1)
    assert abs(times / 2000 - 0.25).max() < 0.05  # five standard errors


def test_a_class_too_small_for_a_part_is_named_and_can_be_left_out():
    data = of_counts(20, 2, 5, names=["ant", "bee", "cat"])
    message = (
        r"class 'bee' has 2 examples, too few for fractions \(0.8, 0.2\): a"
        r" part would have none of them. images.at_least\(3\) leaves such"
    )
    with pytest.raises(ValueError, match=message):
        data.split_examples(0.8, 0.2)
    train, test = data.at_least(3).split_examples(0.8, 0.2)
    assert train.names == test.names == ["ant", "cat"]
    assert test.counts.tolist() == [4, 1]


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (0.9, 0.05), (1 / 3,)])
def test_what_the_error_leaves_can_be_split(fractions):
    data = of_counts(*range(1, 40))
    with pytest.raises(ValueError, match="at_least") as error:
        data.split_examples(*fractions)
    least = int(str(error.value).split("at_least(")[1].split(")")[0])
    parts = data.at_least(least).split_examples(*fractions)
    assert all(part.counts.all() for part in parts)


def test_small_classes_are_left_out():
    data = of_counts(5, 2, 9, names=["a", "b", "c"])
    assert data.at_least(5).names == ["a", "c"]
    assert data.at_least(6).counts.tolist() == [9]
    with pytest.raises(
        ValueError, match="no class has 10 examples; the largest, 'c', has 9"
    ):
        data.at_least(10)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_by_its_row(value):
    signals = np.zeros((5, 2, 4), np.float32)
    signals[3, 1, 2] = value
    with pytest.raises(ValueError, match="example 3 holds a value that is not"):
        mb.LabelledImages(signals, [1, 0, 1, 0, 1])
    mb.LabelledImages(np.nan_to_num(signals), [1, 0, 1, 0, 1])


PIXELS = np.zeros((2, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (np.zeros((2, 4), np.uint8), [0, 1], {}, r"bytes are pixels, \(N, H"),
        (np.zeros((2, 4, 4), bool), [0, 1], {}, "images are torch.bool; they"),
        (np.zeros((2, 4), np.int16), [0, 1], {}, r"\.astype\('float32'\)"),
        (np.zeros(2), [0, 1], {}, r"images.reshape\(-1, 1\) makes"),
        (np.zeros((2, 8, 8, 3), np.uint8), [0, 1], {}, "channels last"),
        (PIXELS[:0], [], {}, "there are no images"),
        (PIXELS, [0], {}, "2 images but labels of shape"),
        (PIXELS, [0.0, 1.0], {}, "labels are float64; a label is an integer"),
        (PIXELS, [0, 9], {"names": ["a"] * 10}, "2 classes but 10 names"),
        (
            PIXELS,
            [0, 1],
            {"groups": [5, 5], "partition": ["train", "test"]},
            "tears a group",
        ),
    ],
)
def test_what_cannot_be_held_is_named(images, labels, options, message):
    with pytest.raises(ValueError, match=message):
        mb.LabelledImages(images, labels, **options)


def test_the_ways_out_of_errors_about_examples_lead_out():
    labels = [0, 1]
    colour = np.moveaxis(np.zeros((2, 8, 8, 3), np.uint8), -1, 1)
    assert mb.LabelledImages(colour, labels).images.shape == (2, 3, 8, 8)
    counts = np.zeros((2, 4), np.int16).astype("float32")
    assert mb.LabelledImages(counts, labels).images.dtype == torch.float32
    numbers = np.zeros(2).reshape(-1, 1)
    assert mb.LabelledImages(numbers, labels).images.shape == (2, 1)


def test_splits_and_subsets_that_cannot_be_are_named():
    data = of_counts(*[2] * 3)
    with pytest.raises(ValueError, match="without a split of their own"):
        data.split()
    own = of_counts(2, 2, partition=["train", "test"])
    with pytest.raises(ValueError, match="no 'valid' class"):
        own.split()
    with pytest.raises(ValueError, match="too few"):
        data.split(0.9, 0.1)
    for split in (data.split, data.split_examples):
        with pytest.raises(ValueError, match="sum to at most 1"):
            split(0.9, 0.2)
        with pytest.raises(ValueError, match="must be positive"):
            split(0.9, 0.0)
    with pytest.raises(ValueError, match="must be positive"):
        data.split_examples()
    for classes in ([0, 0, 1], np.array([True, False, True])):
        with pytest.raises(ValueError, match="different class numbers"):
            data.subset(classes)
    with pytest.raises(ValueError, match="at least one class"):
        data.subset([])
