# SPDX-License-Identifier: MIT
"""Many tasks from one pass over a test set: every image is embedded once, and
episodes are drawn from vectors.

Ten thousand episodes of 5-way 1-shot look at 800,000 images, of a test set that
has some thousands. A learner whose vector of an image depends on that image
alone, in evaluation mode, gives the same scores either way. It has two methods:
``embed`` (images to vectors) and ``score`` (vectors of an episode to scores),
and calling it does both. Taught in section 3.3 of the book.
"""

import copy
from collections.abc import Callable, Hashable, Mapping
from typing import Protocol, TypeVar, cast, overload, runtime_checkable

import torch
from torch import Tensor
from tqdm import tqdm

from metabook.data.global_random import watched_random_numbers
from metabook.data.images import LabelledImages
from metabook.learner.protocol import Learner
from metabook.learner.weights import first_weight
from metabook.tasks.episode import as_episodes
from metabook.training.evaluate import (
    Tasks,
    as_found,
    placed,
    score_episodes,
)
from metabook.training.folding import folded
from metabook.training.metrics import MetricFn
from metabook.training.scores import Score

__all__ = ["EmbeddedImages", "evaluate_embedded"]

EMBED_BATCH = 1024  # images that are floats at the same time
Key = TypeVar("Key", bound=Hashable)


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


@overload
def evaluate_embedded(
    learner: Learner,
    tasks: ImageTasks,
    episodes: int = 1000,
    *,
    start: int = 0,
    batch: int = 32,
    progress: bool = True,
    metric: str | MetricFn | None = None,
    higher_is_better: bool = True,
) -> Score: ...
@overload
def evaluate_embedded(
    learner: Learner,
    tasks: Mapping[Key, ImageTasks],
    episodes: int = 1000,
    *,
    start: int = 0,
    batch: int = 32,
    progress: bool = True,
    metric: str | MetricFn | None = None,
    higher_is_better: bool = True,
) -> dict[Key, Score]: ...
def evaluate_embedded(
    learner: Learner,
    tasks: ImageTasks | Mapping[Key, ImageTasks],
    episodes: int = 1000,
    *,
    start: int = 0,
    batch: int = 32,
    progress: bool = True,
    metric: str | MetricFn | None = None,
    higher_is_better: bool = True,
) -> Score | dict[Key, Score]:
    """Measure a learner as `evaluate` does, embedding each image once.

    The scores are those of `evaluate` on the same tasks, up to the rounding of
    the embedding. One episode is computed both ways, and a difference is
    refused.

    Parameters
    ----------
    learner : Learner
        One with ``embed`` and ``score``, as prototypical networks and their
        relatives, and not transductive.
    tasks : FewShotTasks, VariedTasks, or a mapping of names to them
        Tasks of many ways and shots of the same images share one pass over
        them.
    episodes, start, batch, progress, metric, higher_is_better
        Those of `evaluate`; each of several tasks gets so many episodes.

    Returns
    -------
    Score, or a dict of the same names to Score

    Raises
    ------
    ValueError
        If the learner has no embedding, one that depends on the batch, or does
        something else than embed and score; if the tasks are not drawn from
        images, or transform them at random.

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.ProtoNet(mb.Conv4(width=8))
    >>> images = mb.glyphs(classes=20, seed=0)
    >>> tasks = {
    ...     (way, shot): mb.FewShotTasks(images, way, shot, query=5)
    ...     for way in (5, 20)
    ...     for shot in (1, 5)
    ... }
    >>> scores = mb.evaluate_embedded(learner, tasks, episodes=50)
    >>> list(scores), scores[5, 1].n
    ([(5, 1), (5, 5), (20, 1), (20, 5)], 50)
    """
    families = list(tasks.values()) if isinstance(tasks, Mapping) else [tasks]
    _check_learner(learner)
    for each in families:
        _check_tasks(each)
    passes: dict[tuple[int, int], EmbeddedImages] = {}
    scores = []
    for each in families:
        transform = getattr(each, "transform", None)
        one_pass = id(each.images), id(transform)
        if one_pass not in passes:
            passes[one_pass] = EmbeddedImages(
                each.images, learner, transform=transform, progress=progress
            )
            _check_vectors(learner, each, passes[one_pass])
        scores += score_episodes(
            learner,
            _on_vectors(each, passes[one_pass]),
            episodes,
            lambda *parts: cast(Embeds, learner).score(*parts)[None],
            start=start,
            batch=batch,
            progress=progress,
            metric=metric,
            higher_is_better=higher_is_better,
        )
    if isinstance(tasks, Mapping):
        return dict(zip(tasks, scores, strict=True))
    return scores[0]


class EmbeddedImages(LabelledImages):
    """The same classes with a vector in place of each image, from which
    `FewShotTasks` draws the same tasks.

    Parameters
    ----------
    images : LabelledImages
    learner : Learner
        One with ``embed``. A `folded` copy of it is used, in evaluation mode.
    transform : callable, optional
        Images to what the network sees, always the same.
    progress : bool

    Attributes
    ----------
    vectors : Tensor, (N, D)
        On the learner's device, in the type of its weights.

    Examples
    --------
    >>> import metabook as mb
    >>> EmbeddedImages(
    ...     mb.glyphs(classes=3, examples=4, seed=0), mb.ProtoNet(mb.Conv4())
    ... ).vectors.shape
    torch.Size([12, 64])
    """

    def __init__(
        self,
        images: LabelledImages,
        learner: Learner,
        *,
        transform: Callable[[Tensor], Tensor] | None = None,
        progress: bool = True,
    ) -> None:
        vars(self).update(vars(images))
        embed = cast(Embeds, folded(learner)).embed
        parts = torch.split(torch.arange(len(images)), EMBED_BATCH)
        vectors = []
        with torch.no_grad():
            for rows in tqdm(
                parts,
                desc="embed",
                disable=None if progress else True,
                leave=False,
            ):
                x = images.pixels(rows)
                x = x if transform is None else transform(x)
                vectors.append(embed(_placed(x, learner)[None])[0])
        self.vectors = torch.cat(vectors)

    def pixels(self, rows: Tensor) -> Tensor:
        """The vectors at ``rows`` (any shape), ``rows.shape + (D,)``."""
        return self.vectors[rows.to(self.vectors.device)]


def _placed(x: Tensor, learner: Learner) -> Tensor:
    weight = first_weight(learner)
    if weight is None:
        return x
    return x.to(weight.device, weight.dtype if x.is_floating_point() else None)


def _check_learner(learner: Learner) -> None:
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


def _check_tasks(tasks: ImageTasks) -> None:
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


def _on_vectors(tasks: ImageTasks, vectors: EmbeddedImages) -> ImageTasks:
    """The same tasks with vectors in place of images: both are drawn from the
    same (seed, index).
    """
    twin = copy.copy(tasks)
    twin.images = vectors
    if hasattr(twin, "transform"):
        twin.transform = None  # its work is in the vectors
    return twin


def _check_vectors(
    learner: Learner, tasks: ImageTasks, vectors: EmbeddedImages
) -> None:
    """Refuse what makes another thing of an episode than `evaluate` does: an
    embedding that looks at its batch, or a learner that does more than
    ``embed`` and ``score``.
    """
    images, kept = (
        as_episodes(each.sample(1))[0]
        for each in (tasks, _on_vectors(tasks, vectors))
    )
    images = placed(images, learner)
    s = images.support_x.shape[1]
    with as_found(learner), torch.no_grad():
        x = torch.cat([images.support_x, images.query_x], dim=1)
        z = cast(Embeds, learner).embed(x)
        whole = learner(images.support_x, images.support_y, images.query_x)
        parts = cast(Embeds, learner).score(
            z[:, :s], images.support_y, z[:, s:]
        )
    _check_close(
        torch.cat([kept.support_x, kept.query_x], dim=1),
        z,
        "vectors of images embedded beforehand differ by {:.2g} from those of"
        " an episode, which are up to {:.2g}: the embedding, or the transform,"
        " looks at the other images of its batch. Measure it with evaluate",
    )
    _check_close(
        parts,
        whole,
        "scores of vectors differ by {:.2g} from those of calling the learner,"
        " which are up to {:.2g}: it does more than embed and score. Measure it"
        " with evaluate",
    )


def _check_close(values: Tensor, expected: Tensor, message: str) -> None:
    gap, size = (
        float((values - expected).abs().max()),
        float(expected.abs().max()),
    )
    # rounding in a deep network: a hundredth, and of half precision more
    if gap > max(1e-2, torch.finfo(values.dtype).eps ** 0.5) * size:
        raise ValueError(message.format(gap, size))
