# SPDX-License-Identifier: MIT
"""Many tasks from one pass over a test set: every image is embedded once, and
episodes are drawn from vectors.

Ten thousand episodes of 5-way 1-shot look at 800,000 images, of a test set that
has some thousands. A learner whose vector of an image depends on that image
alone, in evaluation mode, gives the same scores either way. It has two methods:
``embed`` (images to vectors) and ``score`` (vectors of an episode to scores),
and calling it does both. Taught in section 3.3 of the book.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar, cast, overload

import torch
from torch import Tensor

from metabook.data.images import LabelledImages
from metabook.data.progress import progress_bar
from metabook.learner.precision import uncast
from metabook.learner.protocol import Learner
from metabook.learner.weights import like_weights
from metabook.training.embeddable import (
    Embeds,
    ImageTasks,
    check_learner_embeds,
    check_tasks_of_images,
    check_vectors,
    first_vectors,
    on_vectors,
)
from metabook.training.evaluate import device_of, score_episodes
from metabook.training.folding import folded
from metabook.training.metrics import MetricFn
from metabook.training.scores import Score

__all__ = ["EmbeddedImages", "evaluate_embedded"]

EMBED_BATCH = 1024  # images that are floats at the same time
Key = TypeVar("Key", bound=Hashable)


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
    check_learner_embeds(learner)
    for each in families:
        check_tasks_of_images(each)
    passes: dict[tuple[int, int], EmbeddedImages] = {}
    scores = []
    for each in families:
        transform = getattr(each, "transform", None)
        one_pass = id(each.images), id(transform)
        if one_pass not in passes:
            first = first_vectors(learner, each)
            passes[one_pass] = EmbeddedImages(
                each.images, learner, transform=transform, progress=progress
            )
            check_vectors(first, on_vectors(each, passes[one_pass]))
        scores += score_episodes(
            learner,
            on_vectors(each, passes[one_pass]),
            episodes,
            uncast(device_of(learner))(
                lambda *parts: cast(Embeds, learner).score(*parts)[None]
            ),
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
        embed = cast(Embeds, folded(learner)).embed
        parts = torch.split(torch.arange(len(images)), EMBED_BATCH)
        vectors = []
        with torch.no_grad():
            for rows in progress_bar(
                parts, desc="embed", show=progress, leave=False
            ):
                x = images.pixels(rows)
                x = x if transform is None else transform(x)
                vectors.append(embed(like_weights(x, learner)[None])[0])
        vars(self).update(vars(images) | {"images": torch.cat(vectors)})

    @property
    def vectors(self) -> Tensor:
        """The examples, which `pixels` picks from."""
        return self.images
