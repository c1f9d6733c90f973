# SPDX-License-Identifier: MIT
"""Data sets made for torch, taken over."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset

import metabook as mb


class Listed:
    """A data set as torchvision has them: pairs by number, and ``classes``."""

    def __init__(self, pairs, classes=None, transform=None):
        self.pairs, self.transform = pairs, transform
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, i):
        if self.transform is None:
            return self.pairs[i]
        example, label = self.pairs[i]
        return self.transform(example), label


def picture(value, mode="RGB", size=(20, 20)):
    image = Image.new(mode, size, value)
    image.paste("white", (4, 4, 8, 8))
    return image


def take(dataset, **options):
    return mb.from_dataset(dataset, progress=False, **options)


def test_pillow_images_become_bytes_as_they_are():
    pairs = [(picture((10 * i, 0, 7)), i % 2) for i in range(6)]
    data = take(Listed(pairs, classes=["even", "odd"]))
    assert repr(data) == "LabelledImages(2 classes, 6 images of 3 x 20 x 20)"
    assert data.names == ["even", "odd"]
    assert data.images[:, 0, 15, 15].tolist() == [0, 20, 40, 10, 30, 50]
    assert data.images[:, 2, 15, 15].tolist() == [7] * 6
    assert data.images[:, :, 5, 5].unique().tolist() == [255]


@pytest.mark.parametrize("mode", ["L", "1", "I;16", "LA"])
def test_grey_images_keep_their_one_channel_and_are_not_inverted(mode):
    values = np.full((8, 8), 255, np.uint8)
    values[2:4] = 0
    image = Image.fromarray(values)
    image = (
        Image.fromarray(values.astype(np.uint16) * 257)
        if mode == "I;16"
        else image.convert(mode)
    )
    data = take(Listed([(image, 0)]))
    assert torch.equal(data.images, torch.from_numpy(values)[None, None])


@pytest.mark.parametrize(
    ("make", "dtype", "shape"),
    [
        (lambda x: x, torch.float32, (3, 5, 5)),
        (lambda x: x.double().numpy(), torch.float64, (3, 5, 5)),
        (lambda x: (255 * x).byte(), torch.uint8, (3, 5, 5)),
        (lambda x: (255 * x[0]).byte().numpy(), torch.uint8, (1, 5, 5)),
        (lambda x: (9 * x).long().flatten(), torch.int64, (75,)),
    ],
)
def test_tensors_and_arrays_stay_what_they_are(make, dtype, shape):
    x = torch.rand(4, 3, 5, 5)
    data = take(Listed([(x[i], [4, 2, 4, 2][i]) for i in range(4)], None, make))
    assert (data.images.dtype, data.images.shape[1:]) == (dtype, shape)
    expected = torch.stack([torch.as_tensor(make(x[i])) for i in (1, 3, 0, 2)])
    assert torch.equal(data.images, expected.view_as(data.images))


@pytest.mark.parametrize(
    "label",
    [int, np.int64, torch.tensor, np.array, lambda y: torch.tensor([y])],
)
def test_labels_are_integers_of_any_kind(label):
    x = torch.rand(3, 7)
    data = take(Listed([(x[i], label(y)) for i, y in enumerate((30, -2, 30))]))
    assert data.names == ["-2", "30"]
    assert torch.equal(data.images, x[[1, 0, 2]])


def test_names_are_the_data_sets_or_ones_own():
    pairs = [(torch.rand(2), y) for y in (3, 1, 3, 1)]
    names = ["ant", "bee", "cat", "dog"]
    whole = Listed(pairs, classes=names)
    assert take(whole).names == ["bee", "dog"]
    assert take(Subset(Subset(whole, [0, 1, 2]), [0, 1])).names == [
        "bee",
        "dog",
    ]
    assert take(Listed(pairs, classes=names[:2])).names == ["1", "3"]
    assert take(Listed(pairs)).names == ["1", "3"]
    assert take(whole, class_names="wxyz").names == ["x", "z"]
    with pytest.raises(
        ValueError,
        match="names for labels 0 to 2, but the labels run from 1 to",
    ):
        take(whole, class_names="wxy")


def test_images_of_several_shapes_are_named_and_both_ways_out_lead_out():
    pairs = [
        (picture("red"), 0),
        (picture("red"), 1),
        (picture("red", size=(30, 20)), 1),
    ]
    message = (
        r"example 2 is torch.uint8 of shape \(3, 20, 30\), but example 0 is"
        r" torch.uint8 of shape \(3, 20, 20\); .* transform resize .* size="
    )
    with pytest.raises(ValueError, match=message):
        take(Listed(pairs))
    assert take(Listed(pairs), size=12).images.shape == (3, 3, 12, 12)
    small = take(Listed(pairs, transform=lambda image: image.resize((9, 9))))
    assert small.images.shape == (3, 3, 9, 9)


def test_grey_ones_among_colours_are_named_and_channels_make_them_one():
    pairs = [(picture("red"), 0), (picture(60, mode="L"), 1)]
    with pytest.raises(ValueError, match=r"example 1 is .* \(1, 20, 20\), but"):
        take(Listed(pairs))
    data = take(Listed(pairs), channels=3)
    assert data.images[:, :, 15, 15].tolist() == [[255, 0, 0], [60, 60, 60]]
    assert take(Listed(pairs), channels=1).images.shape == (2, 1, 20, 20)


def test_fit_is_that_of_pictures():
    image = Image.new("RGB", (40, 20), "red")
    image.paste("white", (19, 9, 21, 11))  # two pixels a side, in the middle
    pad, crop, squeeze = (
        take(Listed([(image, 0)]), size=20, fit=fit).images[0]
        for fit in ("pad", "crop", "squeeze")
    )
    assert pad[:, 2, 10].tolist() == [0, 0, 0]
    assert crop[:, 2, 10].tolist() == squeeze[:, 2, 10].tolist() == [255, 0, 0]
    assert (crop[1] == 255).sum() == 4
    assert 2 <= (squeeze[1] > 100).sum() <= 4 < (squeeze[1] > 0).sum()


@pytest.mark.parametrize(
    ("item", "options", "message"),
    [
        ({"x": 1, "y": 2}, {}, "item 1 of the data set is a dict; it must be"),
        ((torch.rand(2), 0, 0), {}, "item 1 of the data set is a tuple"),
        ((torch.rand(2), 0.5), {}, "label 1 is 0.5; a label is one integer"),
        ((torch.rand(2), "a"), {}, "label 1 is 'a'; .* target_transform"),
        ((torch.rand(2), torch.tensor([0, 1])), {}, "a label is one integer"),
        ((0.5, 0), {}, "example 1 is a float; it must be a Pillow image"),
        (
            (torch.rand(2).double(), 0),
            {},
            "example 1 is torch.float64 of .* example 0 is torch.float32",
        ),
        (
            (torch.tensor([1.0, np.nan]), 0),
            {},
            "example 1 holds a value that is not finite",
        ),
        (
            (picture("red"), 0),
            {"size": 8},
            "example 0 is a Tensor: let the data set's transform resize it",
        ),
        ((torch.rand(2), 0), {"size": 0}, "size is 0; it must be at least 1"),
        ((torch.rand(2), 0), {"channels": 2}, "channels is 2; choose 1"),
        ((torch.rand(2), 0), {"fit": "cover"}, "fit is 'cover'; choose 'pad'"),
    ],
)
def test_what_is_no_such_data_set_is_named(item, options, message):
    with pytest.raises(ValueError, match=message):
        take(Listed([(torch.rand(2), 0), item]), **options)


def test_an_image_that_goes_blank_is_named():
    corner = Image.new("L", (90, 30), 255)
    corner.paste(0, (0, 0, 10, 10))
    with pytest.raises(
        ValueError, match="example 0 cannot be used: it has several colours"
    ):
        take(Listed([(corner, 0)]), size=28, fit="crop")


@pytest.mark.parametrize("dataset", [[], iter([(torch.rand(2), 0)])])
def test_a_data_set_without_a_length_is_named(dataset):
    with pytest.raises(ValueError, match="has no length, or length 0"):
        take(dataset)


def test_tasks_are_drawn_from_it():
    x, y = torch.randn(40, 2, 30), torch.arange(40) % 5
    data = take(TensorDataset(x, y))
    tasks = mb.FewShotTasks(data, way=3, shot=2, query=4)
    assert tasks.sample(2).query_x.shape == (2, 12, 2, 30)
