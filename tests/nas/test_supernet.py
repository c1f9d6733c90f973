# SPDX-License-Identifier: MIT
"""A supernet shares its weights, its mixture is a mixture, and what it says of
an architecture is what one would measure.
"""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import metabook as mb
from metabook.book import results
from metabook.nas.candidates import glyph_network, glyph_tasks
from metabook.nas.supernet import (
    CALIBRATION,
    Supernet,
    shared_scores,
    train_mixture,
    train_paths,
)

SPACE = mb.nas.SearchSpace(
    {
        "block1": ["skip", "conv1", "conv3"],
        "block2": ["conv3", "sep5"],
        "block3": ["skip", "conv5"],
    }
)
ARCH = ("conv3", "sep5", "skip")


@pytest.fixture(scope="module")
def parts():
    images = mb.glyphs(classes=60, size=16, seed=0).split(
        0.5, 0.25, 0.25, seed=0
    )
    return [
        mb.FewShotTasks(part, way=5, shot=1, query=5, seed=i)
        for i, part in enumerate(images)
    ]


def state(module):
    return copy.deepcopy(dict(module.named_parameters()))


def changed(before, module):
    return {
        name
        for name, p in module.named_parameters()
        if not torch.equal(before[name], p)
    }


def test_a_path_is_made_of_the_supernets_own_weights():
    supernet = Supernet(SPACE)
    ours = {id(p) for p in supernet.parameters()}
    theirs = {id(p) for p in supernet.path(ARCH).parameters()}
    assert theirs < ours


def test_a_path_after_a_skipped_block_is_the_network_of_the_candidate():
    """Sixteen copies of a channel are to a convolution one channel, with the
    sum of its weights.
    """
    arch, x = ("skip", "conv3", "conv5"), torch.rand(8, 1, 16, 16)
    supernet = Supernet(
        mb.nas.SearchSpace({str(i): [op] for i, op in enumerate(arch)})
    )
    alone = glyph_network(arch)
    shared = [
        m for m in supernet.path(arch).modules() if isinstance(m, nn.Conv2d)
    ]
    own = [m for m in alone.modules() if isinstance(m, nn.Conv2d)]
    own[0].weight.data = shared[0].weight.data.sum(dim=1, keepdim=True)
    own[1].weight.data = shared[1].weight.data
    assert torch.allclose(supernet.path(arch)(x), alone(x), atol=1e-4)


def test_the_shares_of_a_mixture_add_up_to_one_and_one_share_is_a_path():
    supernet, x = Supernet(SPACE).eval(), torch.rand(4, 1, 16, 16)
    with torch.no_grad():
        supernet.alpha.copy_(torch.randn(supernet.alpha.shape))
    assert [len(p) for p in supernet.shares()] == [3, 2, 2]
    assert all(
        p.sum().item() == pytest.approx(1) and (p > 0).all()
        for p in supernet.shares()
    )
    with torch.no_grad():
        for d, op in enumerate(ARCH):
            supernet.alpha[d] = 0
            supernet.alpha[d, SPACE.choices[d].index(op)] = 200
    assert supernet.strongest() == ARCH
    assert torch.allclose(supernet(x), supernet.path(ARCH)(x), atol=1e-5)


def test_what_pads_the_table_of_shares_is_no_operation():
    supernet = Supernet(SPACE)
    with torch.no_grad():
        supernet.alpha[1, 2] = 100  # block2 has two operations
    assert [len(p) for p in supernet.shares()] == [3, 2, 2]
    assert supernet.strongest()[1] in SPACE.choices[1]


def test_a_step_along_a_path_moves_its_weights_alone(parts):
    supernet = Supernet(SPACE)
    before = state(supernet)
    train_paths(supernet, parts[0], iterations=1, seed=3)
    moved = changed(before, supernet)
    used = [
        {
            name.split(".")[2]
            for name in moved
            if name.startswith(f"blocks.{d}.")
        }
        for d in range(3)
    ]
    assert moved and all(len(ops) <= 1 for ops in used)
    assert "alpha" not in moved


def test_the_mixture_learns_weights_from_one_half_and_shares_from_the_other(
    parts, monkeypatch
):
    supernet, drawn = Supernet(SPACE), []
    before = state(supernet)
    for name, half in (("weights", parts[0]), ("alpha", parts[1])):
        sample = half.sample
        monkeypatch.setattr(
            half,
            "sample",
            lambda *a, name=name, sample=sample: (
                drawn.append((name, changed(before, supernet))) or sample(*a)
            ),
        )
    train_mixture(supernet, parts[0], parts[1], iterations=1)
    assert drawn == [("alpha", set()), ("weights", {"alpha"})]
    assert changed(before, supernet) == set(before)


def trained(parts, iterations, seed=0):
    supernet = Supernet(
        mb.nas.SearchSpace({str(i): ["conv3", "conv5"] for i in range(4)}),
        seed=seed,
    )
    train_paths(supernet, parts[0], iterations, seed=seed)
    return list(shared_scores(supernet, *parts[:2], episodes=100).values())


def test_training_pays(parts):
    assert np.mean(trained(parts, 150)) > np.mean(trained(parts, 0)) + 3


def test_a_supernet_is_a_function_of_its_seed_and_the_random_state_stays(parts):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = trained(parts, 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert trained(parts, 3) == first
    assert trained(parts, 3, seed=1) != first


def test_shared_scores_are_what_evaluating_each_path_gives(parts):
    """With batch norm's statistics taken anew, path by path; and the supernet
    is left as it was.
    """
    supernet = Supernet(SPACE)
    train_paths(supernet, parts[0], iterations=5)
    before, mode = copy.deepcopy(supernet.state_dict()), supernet.training
    scores = shared_scores(supernet, *parts[:2], episodes=40)
    assert list(scores) == list(SPACE)
    assert all(
        torch.equal(before[name], value)
        for name, value in supernet.state_dict().items()
    )
    assert supernet.training == mode
    images = parts[0].images
    seen = images.pixels(torch.linspace(0, len(images) - 1, CALIBRATION).long())
    for arch in (ARCH, ("skip", "conv3", "skip")):
        path = copy.deepcopy(supernet.path(arch))
        for module in path.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            path.train()(seen)
        expected = mb.evaluate(mb.ProtoNet(path), parts[1], episodes=40)
        # ties by rounding
        assert scores[arch] == pytest.approx(100 * expected.mean, abs=0.3)


def test_no_validation_or_test_image_is_seen_in_training(monkeypatch):
    tasks, valid, test = glyph_tasks()
    for part in (valid, test):
        monkeypatch.setattr(
            part.images,
            "pixels",
            lambda *_: pytest.fail("training looked at other images"),
        )
    train_paths(Supernet(mb.nas.glyph_space()), tasks, iterations=2)


def test_the_committed_comparison_reports_what_the_table_says():
    result = results.load("weight_sharing")
    found, yardsticks = result["methods"], result["yardsticks"]
    assert len(result["seeds"]) == len(found["paths"]["spearman"]["each"]) == 5
    for shares in found["mixture"]["shares"]:
        assert all(sum(row) == pytest.approx(1, abs=0.003) for row in shares)
    for method in ("paths", "mixture"):
        low, high = found[method]["spearman"]["ci95_architectures"]
        assert (
            low
            < found[method]["spearman"]["mean"]
            < high
            < yardsticks["one_training_of_50_iterations"]["spearman"]
        )
        chosen = found[method]["best_by_shared_weights"]
        assert all(
            network["test"] > shared + 5
            for network, shared in zip(
                chosen["networks"],
                found[method]["shared_accuracy_of_it"],
                strict=True,
            )
        )
        assert all(
            network["skips"] == network["architecture"].count("skip")
            for network in chosen["networks"]
        )
    assert (
        found["untrained"]["spearman"]["mean"]
        < 0.3
        < yardsticks["parameters"]
        < found["mixture"]["spearman"]["mean"]
    )
