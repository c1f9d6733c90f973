# SPDX-License-Identifier: MIT
"""Procedural handwriting."""

import numpy as np
import pytest
import torch

import metabook as mb


def nearest_pixels(images, way, shot, query, episodes=300):
    """Accuracy of the nearest support image in pixel space."""
    episode = mb.FewShotTasks(images, way, shot, query, seed=1).sample(episodes)
    distance = torch.cdist(
        episode.query_x.flatten(2), episode.support_x.flatten(2)
    )
    return (
        (episode.support_y.gather(1, distance.argmin(-1)) == episode.query_y)
        .double()
        .mean()
        .item()
    )


def test_a_class_does_not_depend_on_how_many_are_asked_for():
    few, many = (
        mb.glyphs(classes=3, examples=4, seed=7),
        mb.glyphs(classes=70, examples=4, seed=7),
    )
    assert torch.equal(few.images, many.images[:12])
    assert not torch.equal(
        few.images, mb.glyphs(classes=3, examples=4, seed=8).images
    )


def test_every_image_has_ink_and_paper_and_no_two_are_equal():
    images = mb.glyphs(classes=300, examples=5, seed=1)
    ink = images.images.double().mean(dim=(1, 2, 3)) / 255
    assert ink.min() > 0.003
    assert ink.max() < 0.6
    assert len(
        np.unique(images.images.reshape(len(images), -1).numpy(), axis=0)
    ) == len(images)


def test_strokes_are_antialiased():
    values = mb.glyphs(classes=50, examples=2, seed=0).images
    grey = ((values > 20) & (values < 235)).double().mean() / (
        values > 20
    ).double().mean()
    assert grey > 0.3


def test_pixels_alone_are_as_little_help_as_on_omniglot():
    """On Omniglot's test classes, smoothed, 42 % of 5-way 1-shot and 23 % of
    20-way 1-shot queries.
    """
    images = mb.glyphs(classes=300, seed=2)
    assert 0.38 < nearest_pixels(images, way=5, shot=1, query=15) < 0.50
    assert (
        0.18
        < nearest_pixels(images, way=20, shot=1, query=5, episodes=150)
        < 0.28
    )


@pytest.mark.parametrize(
    "wrong", [{"classes": 0}, {"examples": 0}, {"size": 4}]
)
def test_impossible_sizes_are_named(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        mb.glyphs(**({"classes": 2} | wrong))
