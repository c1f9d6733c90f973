# SPDX-License-Identifier: MIT
"""Many ways and shots from one pass over a test set: every image is embedded
once, and episodes are drawn from vectors.

Ten thousand episodes of 5-way 1-shot look at 800,000 images, of a test set that
has some thousands. A learner whose vector of an image depends on that image
alone, in evaluation mode, gives the same scores either way. It has two methods:
``embed`` (images to vectors) and ``score`` (vectors of an episode to scores),
and calling it does both. Taught in section 3.3 of the book.
"""

import copy
import itertools
from collections.abc import Sequence
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from metabook.data.images import LabelledImages
from metabook.data.progress import progress_bar
from metabook.learner.protocol import Learner
from metabook.tasks.episode import Episode
from metabook.tasks.few_shot import FewShotTasks
from metabook.training.evaluate import (
    Score,
    as_found,
    device_of,
    score_episodes,
)

__all__ = ["EmbeddedImages", "evaluate_embedded", "folded"]

EMBED_BATCH = 1024  # images that are floats at the same time


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


def evaluate_embedded(
    learner: Learner,
    images: LabelledImages,
    ways: Sequence[int] = (5, 20),
    shots: Sequence[int] = (1, 5),
    query: int = 15,
    episodes: int = 1000,
    seed: int = 0,
    batch: int = 32,
    progress: bool = False,
    metric: str | None = None,
) -> dict[tuple[int, int], Score]:
    """Measure a learner at every way and shot, embedding each image once.

    The scores are those of `evaluate` on ``FewShotTasks(images, way, shot,
    query, seed)``, the same episodes, up to the rounding of the embedding. One
    episode is computed both ways, and a difference is refused.

    Parameters
    ----------
    learner : Learner
        One with ``embed`` and ``score``, as prototypical networks and their
        relatives, and not transductive.
    images : LabelledImages
    ways, shots : sequence of int
    query : int
        Query examples a class.
    episodes : int
        For every way and shot.
    seed : int
        Of the tasks.
    batch : int
        Episodes scored at once; it changes speed and memory, not the result.
    progress : bool
        Show a bar, where the output is a terminal.
    metric : {"accuracy", "loss"}, optional
        As for `evaluate`.

    Returns
    -------
    dict of (way, shot) to Score

    Raises
    ------
    ValueError
        If the learner has no embedding, one that depends on the batch, or does
        something else than embed and score; if the images are too few for a way
        or a shot.

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.ProtoNet(mb.Conv4(width=8))
    >>> scores = mb.evaluate_embedded(
    ...     learner, mb.glyphs(classes=20, seed=0), query=5, episodes=50
    ... )
    >>> list(scores)
    [(5, 1), (5, 5), (20, 1), (20, 5)]
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
    # both kinds of tasks are drawn from the same (seed, index): what cannot be
    # drawn is refused before the work
    of_images = {
        (way, shot): FewShotTasks(images, way, shot, query, seed=seed)
        for way in ways
        for shot in shots
    }
    vectors = EmbeddedImages(images, learner, progress)
    of_vectors = {
        (way, shot): FewShotTasks(vectors, way, shot, query, seed=seed)
        for way, shot in of_images
    }
    for setting in list(of_images)[:1]:
        _check(
            learner, of_images[setting].sample(1), of_vectors[setting].sample(1)
        )

    def predict(*parts: Tensor) -> Tensor:
        return cast(Embeds, learner).score(*parts)[None]

    return {
        setting: score_episodes(
            learner, tasks, episodes, 0, batch, progress, metric, predict
        )[0]
        for setting, tasks in of_vectors.items()
    }


class EmbeddedImages(LabelledImages):
    """The same classes with a vector in place of each image, from which
    `FewShotTasks` draws the same tasks.

    Parameters
    ----------
    images : LabelledImages
    learner : Learner
        One with ``embed``. A `folded` copy of it is used, in evaluation mode.
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
        self, images: LabelledImages, learner: Learner, progress: bool = False
    ) -> None:
        embed = cast(Embeds, folded(learner)).embed
        device = device_of(learner)
        dtype = next((p.dtype for p in learner.parameters()), torch.float32)
        parts = [
            torch.arange(i, min(i + EMBED_BATCH, len(images)))
            for i in range(0, len(images), EMBED_BATCH)
        ]

        def inputs(rows: Tensor) -> Tensor:  # floats in the weights' type
            x = images.pixels(rows)
            return x.to(device, dtype if x.is_floating_point() else x.dtype)

        with torch.no_grad():
            vectors = torch.cat(
                [
                    embed(inputs(rows)[None])[0]
                    for rows in progress_bar(
                        parts, desc="embed", show=progress, leave=False
                    )
                ]
            )
        vars(self).update(vars(images) | {"images": vectors})

    @property
    def vectors(self) -> Tensor:
        """The examples, which `pixels` picks from."""
        return self.images


def folded(module: nn.Module) -> nn.Module:
    """A copy for inference that computes the same with less work: batch norm
    goes into the convolution before it.

    With running statistics batch norm multiplies a channel by a constant and
    adds another, as a convolution can:

        s = sqrt(var + eps)
        g (w * x + b - mean) / s + beta = (g/s w) * x + (g/s (b - mean) + beta)

    Only a batch norm that directly follows a convolution in an
    ``nn.Sequential`` is folded.

    Parameters
    ----------
    module : nn.Module
        Any; it is not changed.

    Returns
    -------
    nn.Module
        In evaluation mode. Its values differ from the module's own by rounding.

    Examples
    --------
    >>> import metabook as mb
    >>> net, x = mb.Conv4().eval(), torch.rand(3, 1, 28, 28)
    >>> torch.allclose(folded(net)(x), net(x), rtol=1e-5, atol=1e-5)
    True
    >>> sum(isinstance(m, nn.BatchNorm2d) for m in folded(net).modules())
    0
    """
    module = copy.deepcopy(module).eval()
    for chain in list(module.modules()):
        if (
            isinstance(chain, nn.Sequential)
            and type(chain).forward is nn.Sequential.forward
        ):
            for i, (conv, norm) in enumerate(itertools.pairwise(chain)):
                if (
                    type(conv) is nn.Conv2d
                    and type(norm) is nn.BatchNorm2d
                    and norm.running_mean is not None
                ):
                    chain[i] = fuse_conv_bn_eval(conv, norm)
                    chain[i + 1] = nn.Identity()
    return module


def _check(learner: Learner, images: Episode, vectors: Episode) -> None:
    """Refuse a learner that makes something else of an episode than ``embed``
    and ``score`` make of it.
    """
    images, vectors = (
        e.to(vectors.support_x.device, vectors.support_x.dtype)
        for e in (images, vectors)
    )
    with as_found(learner), torch.no_grad():
        whole = learner(images.support_x, images.support_y, images.query_x)
        parts = cast(Embeds, learner).score(
            vectors.support_x, vectors.support_y, vectors.query_x
        )
    gap, size = float((whole - parts).abs().max()), float(whole.abs().max())
    if gap > 1e-2 * size:
        raise ValueError(
            f"scores of vectors embedded beforehand differ by {gap:.2g} from"
            f" those of calling the learner, which are up to {size:.2g}: it"
            " does more than embed and score. Measure it with evaluate"
        )
