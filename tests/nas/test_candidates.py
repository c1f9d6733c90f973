# SPDX-License-Identifier: MIT
"""An architecture becomes a network, is trained, and is scored on validation
tasks alone.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

import metabook as mb
from metabook.nas.candidates import TrainAndScore, glyph_network, glyph_tasks
from metabook.nas.proxies import multiply_adds, parameter_count


def quick(iterations=5, episodes=20, seed=0, **options):
    tasks, valid, _ = glyph_tasks()
    return TrainAndScore(
        glyph_network, tasks, valid, iterations, episodes, seed=seed, **options
    )


@pytest.mark.parametrize("op", ["skip", "conv1", "conv3", "conv5", "sep5"])
def test_each_operation_can_stand_in_each_block(op):
    for block in range(4):
        arch = ("conv3",) * block + (op,) + ("conv3",) * (3 - block)
        assert glyph_network(arch)(torch.zeros(2, 1, 16, 16)).shape == (2, 16)


def test_sizes_counted_by_hand():
    network = glyph_network(("conv3", "skip", "sep5", "conv1"))
    image = torch.zeros(1, 1, 16, 16)
    norm = 2 * 16
    assert parameter_count(network) == (9 * 16 + norm) + (
        25 * 16 + 16 * 16 + norm
    ) + (16 * 16 + norm)
    assert (
        multiply_adds(network, image)
        == 256 * 9 * 16 + 16 * (25 * 16 + 16 * 16) + 4 * 16 * 16
    )


def test_an_unknown_operation_is_named():
    with pytest.raises(ValueError, match="'conv7' is unknown"):
        glyph_network(("conv3", "conv7"))


def test_the_three_parts_share_no_character():
    names = [set(part.images.names) for part in glyph_tasks()]
    assert (
        not names[0] & names[1]
        and not names[0] & names[2]
        and not names[1] & names[2]
    )


def test_a_score_depends_on_architecture_and_seed_and_the_random_state_stays():
    arch = ("conv3", "skip", "conv3", "skip")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = quick()(arch)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert quick()(arch) == first
    assert quick(seed=1)(arch) != first


def test_training_pays():
    arch = ("conv5", "conv3", "skip", "skip")
    assert (
        quick(iterations=60, episodes=200)(arch)
        > quick(iterations=1, episodes=200)(arch) + 8
    )


def test_a_network_without_weights_is_scored_as_it_is():
    assert 0 <= quick()(("skip",) * 4) <= 100


def test_only_training_and_validation_tasks_are_touched(monkeypatch):
    """A test set that raises when it is looked at is never looked at."""
    test = glyph_tasks()[2]
    monkeypatch.setattr(
        test, "indices", lambda *_: pytest.fail("the search drew a test task")
    )
    monkeypatch.setattr(
        test.images,
        "pixels",
        lambda *_: pytest.fail("the search looked at a test image"),
    )
    result = mb.nas.search(
        mb.nas.RandomSearch(mb.nas.glyph_space(), seed=0),
        quick(),
        budget=3,
        progress=False,
    )
    assert len(result.history) == 3 and all(
        trial.error is None for trial in result.history
    )


def test_another_learner_can_be_put_around_the_network():
    tasks, valid, _ = glyph_tasks()

    def maml(network):
        return mb.MAML(
            torch.nn.Sequential(network, torch.nn.Linear(16, 20)),
            0.1,
            first_order=True,
        )

    def build(arch):
        return mb.Conv4(width=16, size=16, norm="batch_stats")

    score = TrainAndScore(
        build, tasks, valid, iterations=2, episodes=5, learner=maml
    )(("conv3",) * 4)
    assert 0 < score < 100


def test_processes_give_the_scores_of_one_process():
    space = mb.nas.glyph_space()

    def history(executor, in_flight):
        strategy = mb.nas.RandomSearch(space, seed=1)
        options = {
            "executor": executor,
            "in_flight": in_flight,
            "progress": False,
        }
        return mb.nas.search(
            strategy, quick(iterations=2), budget=3, **options
        ).history

    threads = (torch.get_num_threads(),)
    with ProcessPoolExecutor(
        2, get_context("spawn"), torch.set_num_threads, threads
    ) as pool:
        assert history(pool, 2) == history(None, 1)
