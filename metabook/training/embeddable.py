# SPDX-License-Identifier: MIT
"""What can be embedded beforehand, and what is refused since `evaluate` would
find something else.

Taught in section 3.3 of the book.
"""

import copy
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from metabook.data.global_random import watched_random_numbers
from metabook.data.images import LabelledImages
from metabook.learner.precision import uncast
from metabook.learner.protocol import Learner
from metabook.tasks.episode import Episode, as_episodes
from metabook.tasks.protocol import Tasks
from metabook.training.evaluate import as_found, placed

__all__ = [
    "Embeds",
    "ImageTasks",
    "check_learner_embeds",
    "check_tasks_of_images",
    "check_vectors",
    "first_vectors",
    "on_vectors",
]


@runtime_checkable
class Embeds(Protocol):
    """What a learner must have, to be evaluated on vectors."""

    def embed(self, x: Tensor) -> Tensor:
        """Images (T, B, ...) to vectors (T, B, D)."""

    def score(
        self, support_z: Tensor, support_y: Tensor, query_z: Tensor
    ) -> Tensor:
        """Vectors (T, S, D) with labels (T, S), and vectors (T, Q, D) of the
        queries, to scores (T, Q, way).
        """


class ImageTasks(Tasks, Protocol):
    """Tasks drawn from images, as `FewShotTasks` and `VariedTasks`."""

    images: LabelledImages


def check_learner_embeds(learner: Learner) -> None:
    """Refuse a learner whose vectors, by its own account, are no property of
    the images.
    """
    name = type(learner).__name__
    if not isinstance(learner, Embeds):
        raise ValueError(
            f"{name} has no vectors to keep: it has no methods embed and score,"
            " since what it makes of an image depends on the task; measure it"
            " with evaluate"
        )
    if learner.transductive:
        raise ValueError(
            f"this {name} is transductive: its network normalises with the"
            " statistics of the batch, so that the vector of an image changes"
            " with the episode. Measure it with evaluate, or use running"
            " statistics (norm='batch')"
        )


def check_tasks_of_images(tasks: ImageTasks) -> None:
    """Refuse tasks whose examples cannot be embedded once for all of them."""
    name, images = type(tasks).__name__, getattr(tasks, "images", None)
    if not isinstance(images, LabelledImages):
        raise ValueError(
            f"{name} draws no tasks from LabelledImages, as"
            " FewShotTasks(images, way=5, shot=1) and VariedTasks(images) do,"
            " and nothing else can be embedded beforehand; measure other tasks"
            " with evaluate"
        )
    transform = getattr(tasks, "transform", None)
    if transform is not None:
        x = images.pixels(torch.arange(min(32, len(images))))
        with watched_random_numbers() as moved:
            same = torch.equal(transform(x), transform(x))
            if moved() or not same:
                raise ValueError(
                    f"the transform of these {name} is random, so that an image"
                    " has no one vector: measure them with evaluate, or leave"
                    " augmentation to the training tasks"
                )


def on_vectors(tasks: ImageTasks, vectors: LabelledImages) -> ImageTasks:
    """The same tasks with vectors in place of images: both are drawn from the
    same (seed, index).
    """
    twin = copy.copy(tasks)
    twin.images = vectors
    if hasattr(twin, "transform"):
        twin.transform = None  # its work is in the vectors
    return twin


def first_vectors(learner: Learner, tasks: ImageTasks) -> Tensor:
    """The vectors of the first episode, (S + Q, D), from a learner that does
    nothing else than ``embed`` and ``score``.
    """
    episode = placed(as_episodes(tasks.sample(1))[0], learner)
    x, y, q = episode.support_x, episode.support_y, episode.query_x
    embeds = cast(Embeds, learner)
    with as_found(learner), torch.no_grad():
        whole = learner(x, y, q)
        z = embeds.embed(torch.cat([x, q], dim=1))
        with uncast(z.device):
            parts = embeds.score(z[:, : x.shape[1]], y, z[:, x.shape[1] :])
    _check_close(
        parts,
        whole,
        "scores of vectors differ by {:.2g} from those of calling the learner,"
        " which are up to {:.2g}: it does more than embed and score. Measure it"
        " with evaluate",
    )
    return z[0]


def check_vectors(expected: Tensor, tasks: ImageTasks) -> None:
    """Refuse vectors that are others beside other images."""
    episode: Episode = as_episodes(tasks.sample(1))[0]
    _check_close(
        torch.cat([episode.support_x, episode.query_x], dim=1)[0],
        expected,
        "vectors of images embedded beforehand differ by {:.2g} from those of"
        " an episode, which are up to {:.2g}: the embedding, or the transform,"
        " looks at the other images of its batch. Measure it with evaluate",
    )


def _check_close(values: Tensor, expected: Tensor, message: str) -> None:
    gap, size = (
        float((values - expected).abs().max()),
        float(expected.abs().max()),
    )
    # rounding in a deep network: a hundredth, and of half precision more
    if gap > max(1e-2, torch.finfo(values.dtype).eps ** 0.5) * size:
        raise ValueError(message.format(gap, size))
