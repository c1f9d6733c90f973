# SPDX-License-Identifier: MIT
"""The peers of `maml.py`: their networks, and MAML as each one's own example
writes it.

A function below returns one that puts the gradient of the mean query loss into
``.grad`` of the model's parameters.
"""

import shutil
import tempfile
from pathlib import Path

import peers
import torch
from maml_work import Work
from peers import FOLDER, LEARN2LEARN, Backward
from torch import Tensor, nn
from torch.func import functional_call

import metabook as mb

REQUIREMENTS = {
    "higher": ["higher"],
    "torchopt": ["torchopt", "optree", "graphviz"],
}
# of learn2learn only the files that MAML needs: the rest wants gym and
# torchvision, and its C code is older than today's Python. Without an
# __init__.py they are a namespace package, found under their own names.
LEARN2LEARN_FILES = [
    "_version.py",
    "algorithms/base_learner.py",
    "algorithms/maml.py",
    "utils/__init__.py",
]


def prepare() -> None:
    """Fetch the peers that are missing; `found` tells later which of them could
    be had.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    for folder, packages in REQUIREMENTS.items():
        if not (FOLDER / folder).exists():
            peers.install(*packages)
    target = FOLDER / "learn2learn"
    if all((target / file).exists() for file in LEARN2LEARN_FILES):
        return
    print(f"unpacking {LEARN2LEARN} under {FOLDER}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        top = peers.source_of(LEARN2LEARN, Path(folder))
        for file in LEARN2LEARN_FILES if top else []:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(top / "learn2learn" / file, target / file)


def found() -> dict[str, dict[str, str]]:
    """Import every peer, as `peers.available` does."""
    return peers.available(
        {
            "learn2learn": "learn2learn.algorithms.maml",
            "higher": "higher",
            "TorchOpt": "torchopt",
        }
    )


def mlp() -> nn.Module:
    """The network of the sine waves."""
    return nn.Sequential(
        nn.Linear(1, 40),
        nn.ReLU(),
        nn.Linear(40, 40),
        nn.ReLU(),
        nn.Linear(40, 1),
    )


def conv4(way: int) -> nn.Module:
    """The four blocks as the peers' examples have them: convolution with bias,
    batch norm, ReLU, max-pooling.
    """
    blocks: list[nn.Module] = []
    for channels in (1, 64, 64, 64):
        blocks += [
            nn.Conv2d(channels, 64, 3, padding=1),
            nn.BatchNorm2d(64, track_running_stats=False),
        ]
        blocks += [nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64, way))


def one_by_one(episode: mb.Episode) -> list[tuple[Tensor, ...]]:
    """Support and query set of every task, as peers take them."""
    return list(
        zip(
            episode.support_x,
            episode.support_y,
            episode.query_x,
            episode.query_y,
            strict=True,
        )
    )


def naive_loop(work: Work, model: nn.Module, episode: mb.Episode) -> Backward:
    """No library: `functional_call`, `autograd.grad`, one task at a time."""
    tasks, theta = one_by_one(episode), dict(model.named_parameters())

    def backward() -> None:
        for support_x, support_y, query_x, query_y in tasks:
            fast = theta
            for _ in range(work.inner_steps):
                loss = work.loss_fn(
                    functional_call(model, fast, (support_x,)), support_y
                )
                grads = torch.autograd.grad(
                    loss, list(fast.values()), create_graph=not work.first_order
                )
                fast = {
                    name: w - work.inner_lr * g
                    for (name, w), g in zip(fast.items(), grads, strict=True)
                }
            (
                work.loss_fn(functional_call(model, fast, (query_x,)), query_y)
                / len(tasks)
            ).backward()

    return backward


def learn2learn(work: Work, model: nn.Module, episode: mb.Episode) -> Backward:
    """https://github.com/learnables/learn2learn/blob/master/examples/vision/maml_omniglot.py."""
    from learn2learn.algorithms.maml import MAML

    tasks, maml = (
        one_by_one(episode),
        MAML(model, lr=work.inner_lr, first_order=work.first_order),
    )

    def backward() -> None:
        for support_x, support_y, query_x, query_y in tasks:
            learner = maml.clone()
            for _ in range(work.inner_steps):
                learner.adapt(work.loss_fn(learner(support_x), support_y))
            work.loss_fn(learner(query_x), query_y).backward()
        for p in maml.parameters():
            p.grad.data.mul_(1.0 / len(tasks))

    return backward


def higher(work: Work, model: nn.Module, episode: mb.Episode) -> Backward:
    """https://github.com/facebookresearch/higher/blob/main/examples/maml-omniglot.py."""
    import higher

    tasks, inner = (
        one_by_one(episode),
        torch.optim.SGD(model.parameters(), lr=work.inner_lr),
    )

    def backward() -> None:
        for support_x, support_y, query_x, query_y in tasks:
            with higher.innerloop_ctx(
                model, inner, copy_initial_weights=False
            ) as (fast_model, optimizer):
                for _ in range(work.inner_steps):
                    optimizer.step(
                        work.loss_fn(fast_model(support_x), support_y)
                    )
                (
                    work.loss_fn(fast_model(query_x), query_y) / len(tasks)
                ).backward()

    return backward


def torchopt(work: Work, model: nn.Module, episode: mb.Episode) -> Backward:
    """https://github.com/metaopt/torchopt/blob/main/examples/few-shot/maml_omniglot.py:
    one backward for all tasks.
    """
    import torchopt

    tasks, inner = (
        one_by_one(episode),
        torchopt.MetaSGD(model, lr=work.inner_lr),
    )

    def backward() -> None:
        losses = []
        theta = torchopt.extract_state_dict(
            model, by="reference", detach_buffers=True
        )
        state = torchopt.extract_state_dict(inner, by="reference")
        for support_x, support_y, query_x, query_y in tasks:
            for _ in range(work.inner_steps):
                inner.step(work.loss_fn(model(support_x), support_y))
            losses.append(work.loss_fn(model(query_x), query_y))
            torchopt.recover_state_dict(model, theta)
            torchopt.recover_state_dict(inner, state)
        torch.stack(losses).mean().backward()

    return backward
