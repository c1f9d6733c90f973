# SPDX-License-Identifier: MIT
"""The peers of `metric.py`, continued: how each one draws episodes, and how
easyfsl evaluates on them.

They are functions of a number of episodes; `peers_metric.found` must have
imported the peers.
"""

from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

import metabook as mb


class Items(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Images one at a time, as floats already: the peers are spared the
    conversion.
    """

    def __init__(self, images: mb.LabelledImages) -> None:
        self.x = images.pixels(torch.arange(len(images)))
        self.y = [c for c, n in enumerate(images.counts) for _ in range(n)]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.x[i], self.y[i]

    def get_labels(self) -> list[int]:
        """What easyfsl asks for."""
        return self.y


def easyfsl_loader(
    images: mb.LabelledImages, way: int, shot: int, query: int, episodes: int
) -> DataLoader:
    """Its episodes, in this process."""
    from easyfsl.samplers import TaskSampler

    data = Items(images)
    with mock.patch.object(
        Sampler, "__init__", return_value=None
    ):  # it is given an argument that torch has dropped
        sampler = TaskSampler(data, way, shot, query, episodes)
    return DataLoader(
        data,
        batch_sampler=sampler,
        num_workers=0,
        collate_fn=sampler.episodic_collate_fn,
    )


def easyfsl_evaluation(
    model: nn.Module,
    images: mb.LabelledImages,
    way: int,
    shot: int,
    query: int,
    episodes: int,
) -> Callable[[], float]:
    """Its own loop over freshly drawn episodes; returns the accuracy."""
    from easyfsl.methods import PrototypicalNetworks
    from easyfsl.utils import evaluate

    loader = easyfsl_loader(images, way, shot, query, episodes)
    return lambda: evaluate(
        PrototypicalNetworks(model), loader, device="cpu", use_tqdm=False
    )


def easyfsl_sampling(
    images: mb.LabelledImages, way: int, shot: int, query: int, episodes: int
) -> Callable[[], None]:
    """Episodes and nothing else."""
    loader = easyfsl_loader(images, way, shot, query, episodes)

    def sample() -> None:
        for _ in loader:
            pass

    return sample


def learn2learn_sampling(
    images: mb.LabelledImages, way: int, shot: int, query: int, episodes: int
) -> Callable[[], None]:
    """NWays and KShots, as its examples compose them; support and query set are
    still together.
    """
    import learn2learn as l2l
    from learn2learn.data.transforms import KShots, LoadData, NWays, RemapLabels

    data = l2l.data.MetaDataset(Items(images))
    transforms = [
        NWays(data, way),
        KShots(data, shot + query),
        LoadData(data),
        RemapLabels(data),
    ]
    taskset = l2l.data.Taskset(data, transforms, num_tasks=-1)

    def sample() -> None:
        for _ in range(episodes):
            taskset.sample()

    return sample
