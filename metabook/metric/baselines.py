# SPDX-License-Identifier: MIT
"""What every method must beat: features as they are, and the nearest example,
the nearest mean, or a new head.

Nothing here is meta-learned. `NearestCentroid` is the smallest complete learner
of the package: the page to read before writing one of your own. Taught in
sections 1.1, 1.2 and 3.3 of the book.
"""

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabook.data.global_random import random_numbers_of
from metabook.learner.embedding import EmbeddingLearner
from metabook.learner.labels import check_batch, label_columns
from metabook.learner.precision import forget_casts, uncast, widened
from metabook.learner.protocol import Learner, State
from metabook.metric.distances import (
    Distance,
    distance_by_name,
    squared_euclidean,
)
from metabook.metric.protonet import compute_prototypes
from metabook.models.outputs import one_tensor
from metabook.tasks.episode import Episode

__all__ = [
    "FineTuning",
    "FullFineTuning",
    "NearestCentroid",
    "NearestNeighbour",
]


class NearestCentroid(EmbeddingLearner):
    """The nearest mean of a class, in features learned for something else.

    Parameters
    ----------
    embedding : nn.Module
        Maps examples (B, ...) to features (B, D); ``nn.Flatten()`` for the
        pixels themselves.
    center : Tensor, optional, (D,)
        Subtracted from every feature vector: the mean feature of the training
        classes.
    normalize : bool
        Scale every vector to length one afterwards.

    References
    ----------
    Wang, Chao, Weinberger & van der Maaten, *SimpleShot*, 2019,
    https://arxiv.org/abs/1911.04623

    Examples
    --------
    >>> import metabook as mb
    >>> tasks = mb.FewShotTasks(
    ...     mb.glyphs(classes=20, seed=0), way=5, shot=1, query=3
    ... )
    >>> learner = mb.NearestCentroid(nn.Flatten())
    >>> mb.evaluate(learner, tasks, episodes=50).mean > 0.3
    True
    """

    center: Tensor | None

    def __init__(
        self,
        embedding: nn.Module,
        *,
        center: Tensor | None = None,
        normalize: bool = True,
    ) -> None:
        super().__init__(embedding)
        self.normalize = normalize
        self.register_buffer("center", center)

    def score(
        self, support_z: Tensor, support_y: Tensor, query_z: Tensor
    ) -> Tensor:
        """Negative squared distances to the means, (T, Q, way)."""
        prototypes = compute_prototypes(support_z, support_y)
        return -squared_euclidean(query_z, prototypes)

    def summary(
        self, support_z: Tensor, support_y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The prototypes: a class of one example is its own mean."""
        prototypes = compute_prototypes(support_z, support_y)
        return prototypes, label_columns(support_y)[0]

    def embed(self, x: Tensor) -> Tensor:
        """Features of examples as (T, B, D), centred and normalised."""
        z = super().embed(x)
        z = z if self.center is None else z - self.center
        return F.normalize(z, dim=-1) if self.normalize else z


class NearestNeighbour(EmbeddingLearner):
    """The class of the nearest support example, in pixels or in features.

    Parameters
    ----------
    embedding : nn.Module, optional
        The pixels themselves, unless given.
    distance : str or callable
        ``"squared_euclidean"``, ``"euclidean"``, ``"manhattan"``, ``"cosine"``,
        or a function like those.

    Examples
    --------
    >>> import metabook as mb
    >>> tasks = mb.FewShotTasks(
    ...     mb.glyphs(classes=20, seed=0), way=5, shot=1, query=3
    ... )
    >>> mb.evaluate(mb.NearestNeighbour(), tasks, episodes=50).mean > 0.3
    True
    """

    def __init__(
        self,
        embedding: nn.Module | None = None,
        *,
        distance: str | Distance = "squared_euclidean",
    ) -> None:
        super().__init__(nn.Flatten() if embedding is None else embedding)
        self.distance = distance_by_name(distance)

    def score(
        self, support_z: Tensor, support_y: Tensor, query_z: Tensor
    ) -> Tensor:
        """Minus the distance to each class's nearest example, (T, Q, way)."""
        distances = self.distance(query_z, support_z)  # (T, Q, S)
        classes, columns = label_columns(support_y)
        way = torch.arange(classes.shape[1], device=columns.device)
        foreign = (columns[:, :, None] != way)[:, None]  # (T, 1, S, way)
        of_class = distances[..., None].masked_fill(foreign, torch.inf)
        return -of_class.amin(dim=2)


class NotMetaLearned(Learner):
    """A learner that has nothing to learn across tasks."""

    def backward(self, episode: Episode) -> float:
        """There is no outer gradient: raises NotImplementedError."""
        raise NotImplementedError(
            f"{type(self).__name__} learns nothing across tasks, so that there"
            " is nothing to train: evaluate it as it is, or train its embedding"
            " by another learner first, as by mb.ProtoNet(embedding)"
        )


class FineTuning(NotMetaLearned, EmbeddingLearner):
    """A new head for every task, trained on its support set by gradient
    descent; the features stay as they are.

    Parameters
    ----------
    embedding : nn.Module
    head : {"linear", "cosine"}
        ``"linear"``: scores w.z + b, from zero. ``"cosine"``: ``scale`` times
        the cosine between z and w, from the mean of each class.
    steps : int
        Steps of Adam.
    lr : float
    scale : float
        Of the cosine head.

    References
    ----------
    Chen, Liu, Kira, Wang & Huang, *A Closer Look at Few-shot Classification*,
    2019, https://arxiv.org/abs/1904.04232, whose Baseline and Baseline++ these
    are.

    Examples
    --------
    >>> import metabook as mb
    >>> tasks = mb.FewShotTasks(
    ...     mb.glyphs(classes=20, seed=0), way=5, shot=5, query=3
    ... )
    >>> learner = mb.FineTuning(nn.Flatten(), steps=20)
    >>> mb.evaluate(learner, tasks, episodes=20).mean > 0.3
    True
    """

    def __init__(
        self,
        embedding: nn.Module,
        *,
        head: str = "linear",
        steps: int = 100,
        lr: float = 0.01,
        scale: float = 10.0,
    ) -> None:
        super().__init__(embedding)
        if head not in ("linear", "cosine"):
            raise ValueError(f"head is {head!r}; choose 'linear' or 'cosine'")
        self.head, self.steps, self.lr, self.scale = head, steps, lr, scale

    def score(
        self, support_z: Tensor, support_y: Tensor, query_z: Tensor
    ) -> Tensor:
        """The scores of each task's own head, (T, Q, way)."""
        w, b = self.heads(support_z, support_y)
        return self._scores(query_z, w, b).detach()

    def remember(self, support_x: Tensor, support_y: Tensor) -> State:
        """Each task's own head."""
        state = super().remember(support_x, support_y)
        if "support_x" in state:  # its vectors depend on the queries
            return state
        z, y = state["support_z"], state["support_y"]
        with uncast(z.device):
            w, b = self.heads(z, y)
        return {"w": w.detach(), "b": b.detach()}

    def answer(self, state: State, query_x: Tensor) -> Tensor:
        """The scores of queries by each task's own head."""
        if "support_x" in state:
            return super().answer(state, query_x)
        z = self.embed(query_x)
        with uncast(z.device):
            return self._scores(z, state["w"], state["b"])

    def heads(
        self, support_z: Tensor, support_y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Train the heads: weights (T, way, D) and biases (T, way)."""
        dtype = support_z.dtype
        support_z = support_z.detach().to(widened(dtype))
        prototypes = compute_prototypes(support_z, support_y)  # (T, way, D)
        columns = label_columns(support_y)[1]
        cosine = self.head == "cosine"
        start = prototypes if cosine else torch.zeros_like(prototypes)
        with torch.enable_grad():
            w = start.clone().requires_grad_()
            b = prototypes.new_zeros(*prototypes.shape[:2]).requires_grad_()
            # Adam is elementwise: tasks do not see each other
            optimizer = torch.optim.Adam([w, b], lr=self.lr)
            for _ in range(self.steps):
                scores = self._scores(support_z, w, b).mT  # (T, way, S)
                losses = F.cross_entropy(scores, columns, reduction="none")
                w.grad, b.grad = torch.autograd.grad(
                    losses.mean(dim=1).sum(), [w, b], allow_unused=True
                )
                optimizer.step()
        return w.to(dtype), b.to(dtype)

    def _scores(self, z: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if self.head == "linear":
            return z @ w.mT + b[:, None]
        return self.scale * F.normalize(z, dim=-1) @ F.normalize(w, dim=-1).mT


class FullFineTuning(NotMetaLearned):
    """A copy of the network and a new head for every task, all of it trained on
    the support set by gradient descent.

    Of a network with random weights this is training from scratch.

    Parameters
    ----------
    embedding : nn.Module
        Maps examples (B, ...) to features (B, D); it is copied and stays as it
        is.
    steps : int
        Steps of Adam.
    lr : float
    batch : int
        Examples a step: the whole support set where it is no larger, else this
        many, reshuffled for each pass (the result then depends on the order of
        the support set, as that of any training in batches or with dropout).

    References
    ----------
    Dhillon, Chaudhari, Ravichandran & Soatto, *A Baseline for Few-Shot Image
    Classification*, 2020, https://arxiv.org/abs/1909.02729

    Examples
    --------
    >>> import metabook as mb
    >>> tasks = mb.FewShotTasks(
    ...     mb.glyphs(classes=20, seed=0), way=5, shot=5, query=3
    ... )
    >>> from_scratch = mb.FullFineTuning(mb.Conv4(width=8), steps=20, lr=0.01)
    >>> mb.evaluate(from_scratch, tasks, episodes=10).mean > 0.2
    True
    """

    def __init__(
        self,
        embedding: nn.Module,
        *,
        steps: int = 100,
        lr: float = 0.001,
        batch: int = 32,
    ) -> None:
        super().__init__()
        self.embedding, self.steps = embedding, steps
        self.lr, self.batch = lr, batch

    def forward(
        self, support_x: Tensor, support_y: Tensor, query_x: Tensor
    ) -> Tensor:
        """Train one network a task and score its queries, (T, Q, way)."""
        check_batch(self, support_x, support_y, query_x)
        return self.answer(self.remember(support_x, support_y), query_x)

    def remember(self, support_x: Tensor, support_y: Tensor) -> State:
        """Train one network a task; its weights and buffers by name."""
        classes, columns = label_columns(support_y)
        way = classes.shape[1]
        tasks = zip(support_x, columns, strict=True)
        networks = []
        for x, y in tasks:
            with random_numbers_of(0, x.device):  # of dropout
                networks.append(self._train(x, y, way).state_dict())
        return {k: torch.stack([n[k] for n in networks]) for k in networks[0]}

    def answer(self, state: State, query_x: Tensor) -> Tensor:
        """The scores of queries by each task's own network."""
        way, features = state["1.weight"].shape[1:]
        like = next(self.embedding.parameters(), query_x)
        head = _linear_from_zero(features, way, like=like)
        net = nn.Sequential(copy.deepcopy(self.embedding), head).eval()
        scores = []
        for t, x in enumerate(query_x):
            net.load_state_dict({name: w[t] for name, w in state.items()})
            forget_casts()
            scores.append(net(x).detach())
        return torch.stack(scores)

    def _train(self, x: Tensor, y: Tensor, way: int) -> nn.Module:
        """The network of one task, in evaluation mode."""
        body = copy.deepcopy(self.embedding).train()
        like = next(body.parameters(), x)
        wide = widened(like.dtype)
        body, x = body.to(wide), x.to(wide) if x.is_floating_point() else x
        with torch.no_grad():
            features = one_tensor(body(x)).shape[1]
        head = _linear_from_zero(features, way, like=like).to(wide)
        net = nn.Sequential(body, head)
        optimizer = torch.optim.Adam(net.parameters(), lr=self.lr)
        with torch.enable_grad():
            for rows in self._rows(len(x)):
                forget_casts()
                optimizer.zero_grad()
                loss = F.cross_entropy(net(x[rows]), y[rows])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return net.eval()

    def _rows(self, examples: int) -> Iterator[Tensor]:
        """The examples of every step."""
        generator, order = torch.Generator().manual_seed(0), torch.arange(0)
        for _ in range(self.steps):
            if examples <= self.batch:
                yield torch.arange(examples)
                continue
            if len(order) < self.batch:
                order = torch.randperm(examples, generator=generator)
            yield order[: self.batch]
            order = order[self.batch :]


def _linear_from_zero(inputs: int, outputs: int, like: Tensor) -> nn.Linear:
    """Scores w.z + b from w = 0, b = 0: nothing random, no class ahead."""
    layer: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Linear, inputs, outputs, device=like.device, dtype=like.dtype
    )
    for weights in layer.parameters():
        nn.init.zeros_(weights)
    return layer
