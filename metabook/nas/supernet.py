# SPDX-License-Identifier: MIT
"""One network that holds all others: architectures share their weights, and
training happens once.

A block of the supernet has every operation that the space allows there. Two
ways to train it:

    single paths   each step draws one architecture and moves its weights alone
    the mixture    every block computes sum_o p_o o(x) with p = softmax(alpha);
                   steps on the weights with one half of the training set take
                   turns with steps on alpha with the other half (DARTS, first
                   order)

What a shared weight says of an architecture is a guess. It ranks candidates;
the result of a search is an architecture trained on its own.

Liu, Simonyan & Yang, *DARTS: Differentiable Architecture Search*, 2019,
https://arxiv.org/abs/1806.09055; Guo et al., *Single Path One-Shot Neural
Architecture Search with Uniform Sampling*, 2020,
https://arxiv.org/abs/1904.00420. Taught in section 3.2 of the book.
"""

import copy
from random import Random

import torch
from torch import Tensor, nn

from metabook.metric.protonet import ProtoNet
from metabook.nas.candidates import operation
from metabook.nas.space import Architecture, SearchSpace
from metabook.tasks.few_shot import FewShotTasks
from metabook.training.schedules import half_cosine

__all__ = ["Supernet", "shared_scores", "train_mixture", "train_paths"]

# images from which batch norm's statistics are taken anew for each architecture
CALIBRATION = 1000


class Supernet(nn.Module):
    """Every network of a space of blocks at once.

    Called as it is, it is the mixture. A block is an operation, batch norm,
    max-pooling and a rectifier; ``"skip"`` only pools. From the second block on
    all have the same number of channels, so that each operation fits after each
    other one: a skipped first block repeats the image to fill them. (To a
    convolution, sixteen times the same channel is one channel, with the sum of
    its weights. To ``sep5`` it is more than one channel; that is where a path
    and its architecture differ.) Batch norm has no scale and shift of its own,
    with which a branch could outweigh its share of the mixture.

    Parameters
    ----------
    space : SearchSpace
        Of decisions among ``"skip"`` and the operations of
        `metabook.nas.candidates.glyph_network`.
    width : int
    seed : int
        Of the initial weights.

    Attributes
    ----------
    alpha : nn.Parameter, (blocks, most choices)
        Its softmax over a block's operations is their share of the mixture.
        Starts at zero.

    References
    ----------
    Liu, Simonyan & Yang, 2019, https://arxiv.org/abs/1806.09055

    Examples
    --------
    >>> import metabook as mb
    >>> supernet, x = Supernet(mb.nas.glyph_space()), torch.rand(2, 1, 16, 16)
    >>> supernet(x).shape
    torch.Size([2, 16])
    >>> supernet.path(("conv3", "skip", "sep5", "conv1"))(x).shape
    torch.Size([2, 16])
    """

    def __init__(
        self, space: SearchSpace, width: int = 16, seed: int = 0
    ) -> None:
        super().__init__()
        self.space, self.width = space, width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.blocks = nn.ModuleList()
            for i, row in enumerate(space.choices):
                ops, channels = map(str, row), width if i else 1
                self.blocks.append(
                    nn.ModuleDict(
                        {op: _block(op, channels, width) for op in ops}
                    )
                )
        self.alpha = nn.Parameter(
            torch.zeros(len(space.choices), max(map(len, space.choices)))
        )
        layout = torch.channels_last
        self.to(memory_format=layout)  # type: ignore[call-overload]

    def path(self, arch: Architecture) -> nn.Sequential:
        """The network of one architecture, of the supernet's own modules."""
        blocks = map(self.block, range(len(arch)), arch)
        return nn.Sequential(*blocks, nn.Flatten())

    def block(self, i: int, op: object) -> nn.Module:
        """The module of one operation in one block."""
        return self.blocks[i].get_submodule(str(op))

    def shares(self) -> list[Tensor]:
        """Of each block, its operations' shares in the mixture: a sum of 1."""
        return [
            row[: len(ops)].softmax(dim=0)
            for row, ops in zip(self.alpha, self.space.choices, strict=True)
        ]

    def strongest(self) -> Architecture:
        """The architecture of the largest shares, which DARTS returns."""
        return tuple(
            ops[int(p.argmax())]
            for p, ops in zip(self.shares(), self.space.choices, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The mixture: images (B, 1, H, W) to vectors (B, D)."""
        for i, p in enumerate(self.shares()):
            outputs = [self.block(i, op)(x) for op in self.space.choices[i]]
            parts = [p_o * y for p_o, y in zip(p, outputs, strict=True)]
            x = torch.stack(parts).sum(dim=0)
        return x.flatten(1)


class _Repeat(nn.Module):
    """One channel, many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        x = x.expand(-1, self.times, -1, -1)
        return x.contiguous(memory_format=torch.channels_last)


def _block(op: str, channels: int, width: int) -> nn.Module:
    pool = nn.MaxPool2d(2)
    if op == "skip":
        return (
            pool if channels == width else nn.Sequential(pool, _Repeat(width))
        )
    convolutions = operation(op, channels, width)
    norm = nn.BatchNorm2d(width, affine=False)
    return nn.Sequential(*convolutions, norm, pool, nn.ReLU())


def train_paths(
    supernet: Supernet,
    tasks: FewShotTasks,
    iterations: int,
    lr: float = 3e-3,
    seed: int = 0,
) -> None:
    """Train the shared weights along random paths; ``alpha`` stays.

    All architectures are equally likely.

    Parameters
    ----------
    supernet : Supernet
        Changed in place.
    tasks : FewShotTasks
        One task an iteration.
    iterations : int
    lr : float
        Where the step size of Adam starts; it falls to zero along half a
        cosine.
    seed : int
        Of the paths.

    References
    ----------
    Guo et al., 2020, https://arxiv.org/abs/1904.00420

    Examples
    --------
    >>> from metabook.nas.candidates import glyph_tasks
    >>> import metabook as mb
    >>> supernet = Supernet(mb.nas.glyph_space())
    >>> train_paths(supernet, glyph_tasks()[0], iterations=2)
    """
    rng, supernet = Random(seed), supernet.train()
    optimizer = torch.optim.Adam(supernet.blocks.parameters(), fused=True)
    for i in range(iterations):
        _set_lr(optimizer, lr, i / iterations)
        arch = supernet.space.random(rng)
        if all(op == "skip" for op in arch):
            continue  # nothing to train
        # to None: the weights of other paths, and their moments, stay
        optimizer.zero_grad()
        ProtoNet(supernet.path(arch)).backward(tasks.sample(1, i))
        optimizer.step()


def train_mixture(
    supernet: Supernet,
    tasks: FewShotTasks,
    held_out: FewShotTasks,
    iterations: int,
    lr: float = 3e-3,
    alpha_lr: float = 0.03,
) -> None:
    """Train the mixture as DARTS does, first order.

    A step on ``alpha``, a step on the weights, and so on.

    Parameters
    ----------
    supernet : Supernet
        Changed in place.
    tasks, held_out : FewShotTasks
        For the weights and for ``alpha``: two halves of the training set. One
        task of each an iteration.
    iterations : int
    lr, alpha_lr : float
        Step sizes of the two Adams. The one of the weights falls to zero along
        half a cosine. DARTS itself steps ``alpha`` with 0.0003, in some 20,000
        iterations.

    References
    ----------
    Liu, Simonyan & Yang, 2019, https://arxiv.org/abs/1806.09055

    Examples
    --------
    >>> import metabook as mb
    >>> from metabook.nas.candidates import glyph_tasks
    >>> supernet = Supernet(mb.nas.glyph_space())
    >>> train_mixture(supernet, *glyph_tasks()[:2], iterations=2)
    >>> [round(float(p.detach().sum()), 3) for p in supernet.shares()]
    [1.0, 1.0, 1.0, 1.0]
    """
    learner = ProtoNet(supernet).train()
    weights = torch.optim.Adam(supernet.blocks.parameters(), fused=True)
    shares = torch.optim.Adam(
        [supernet.alpha], alpha_lr, betas=(0.5, 0.999), weight_decay=1e-3
    )
    for i in range(iterations):
        _set_lr(weights, lr, i / iterations)
        for optimizer, part in ((shares, held_out), (weights, tasks)):
            learner.zero_grad()
            learner.backward(part.sample(1, i))
            optimizer.step()


def _set_lr(optimizer: torch.optim.Optimizer, lr: float, done: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * half_cosine(done)


@torch.no_grad()
def shared_scores(
    supernet: Supernet,
    tasks: FewShotTasks,
    valid: FewShotTasks,
    episodes: int = 500,
) -> dict[Architecture, float]:
    """Accuracy of every architecture in percent, with the shared weights.

    Good for ranking, and for nothing else. Batch norm's statistics are taken
    anew for each architecture, from training images: those that training left
    behind are of all paths, or of the mixture. Architectures that begin alike
    share that part of the work.

    Parameters
    ----------
    supernet : Supernet
        Not changed.
    tasks, valid : FewShotTasks
        For the statistics, and for the accuracy.
    episodes : int

    Returns
    -------
    dict of architecture to float
        In the order of the space.

    References
    ----------
    Guo et al., 2020, https://arxiv.org/abs/1904.00420

    Examples
    --------
    >>> import metabook as mb
    >>> from metabook.nas.candidates import glyph_tasks
    >>> supernet = Supernet(mb.nas.glyph_space())
    >>> len(shared_scores(supernet, *glyph_tasks()[:2], episodes=5))
    625
    """
    supernet = copy.deepcopy(supernet)
    evenly = torch.linspace(0, len(tasks.images) - 1, CALIBRATION)
    seen = tasks.images.pixels(evenly.long())
    images = valid.images.pixels(torch.arange(len(valid.images)))
    # (episodes, way, shot + query)
    rows = torch.from_numpy(valid.indices(episodes))
    scores: dict[Architecture, float] = {}

    def visit(arch: Architecture, seen: Tensor, images: Tensor) -> None:
        if len(arch) == len(supernet.space.choices):
            scores[arch] = _accuracy(images.flatten(1), rows, valid.shot)
            return
        for op in supernet.space.choices[len(arch)]:
            block = supernet.block(len(arch), op)
            for module in block.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.reset_running_stats()
                    module.momentum = 1.0  # the statistics of this one batch
            visit((*arch, op), block.train()(seen), block.eval()(images))

    visit((), seen, images)
    return scores


def _accuracy(vectors: Tensor, rows: Tensor, shot: int) -> float:
    """Of prototypes, in percent: vectors (N, D), rows (episodes, way, shot +
    query) of them.
    """
    way, query = rows.shape[1], rows.shape[2] - shot
    z = vectors[rows]  # (episodes, way, shot + query, D)
    prototypes = z[:, :, :shot].mean(dim=2)
    queries = z[:, :, shot:].flatten(1, 2)
    # (episodes, way * query)
    nearest = torch.cdist(queries, prototypes).argmin(dim=2)
    right = nearest == torch.arange(way).repeat_interleave(query)
    return 100 * float(right.double().mean())
