# SPDX-License-Identifier: MIT
"""The peers of `speed.py`: where they come from, their networks, and MAML as
each one's own example writes it.

They live in runs/peers, outside the book's environment, and use its torch. A
function below puts the gradient of the mean query loss into ``.grad`` of the
model's parameters.
"""

import importlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

import metabook as mb

if TYPE_CHECKING:
    from speed import Work

FOLDER = Path("runs") / "peers"
REQUIREMENTS = {
    "higher": ["higher"],
    "TorchOpt": ["torchopt", "optree", "graphviz"],
}
# of learn2learn only the files that MAML needs: the rest wants gym and
# torchvision, and its C code is older than today's Python. Without an
# __init__.py they are a namespace package, found under their own names.
LEARN2LEARN = "learn2learn==0.2.0"
LEARN2LEARN_FILES = [
    "_version.py",
    "algorithms/base_learner.py",
    "algorithms/maml.py",
    "utils/__init__.py",
]
MODULES = {
    "learn2learn": "learn2learn.algorithms.maml",
    "higher": "higher",
    "TorchOpt": "torchopt",
}

Backward = Callable[[], object]


def prepare() -> None:
    """Fetch the peers that are missing; `available` tells later which of them
    could be had.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, packages in REQUIREMENTS.items():
        if not (FOLDER / packages[0]).exists():
            print(f"installing {name} under {FOLDER}", flush=True)
            pip(
                "install",
                "--quiet",
                "--no-deps",
                "--target",
                str(FOLDER),
                *packages,
            )
    if not all(
        (FOLDER / "learn2learn" / file).exists() for file in LEARN2LEARN_FILES
    ):
        print(f"unpacking {LEARN2LEARN} under {FOLDER}", flush=True)
        _unpack_learn2learn()


def pip(*arguments: str) -> bool:
    """Whether pip succeeded; if not, it has said why on the screen."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        *arguments,
    ]
    return subprocess.run(command, check=False).returncode == 0


def _unpack_learn2learn() -> None:
    with tempfile.TemporaryDirectory() as folder:
        top = source_of(LEARN2LEARN, Path(folder))
        for file in LEARN2LEARN_FILES if top else []:
            target = FOLDER / "learn2learn" / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(top / "learn2learn" / file, target)


def source_of(requirement: str, folder: Path) -> Path | None:
    """Download the source of a package and unpack it in a folder; where it lies
    then, if it could be had.
    """
    if not pip(
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        ":all:",
        "--dest",
        str(folder),
        requirement,
    ):
        return None
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
        return folder / archive.getnames()[0].split("/")[0]


def available(modules: dict[str, str] = MODULES) -> dict[str, dict[str, str]]:
    """Import every peer: {name: {"version": ...}} or {name: {"error": why
    not}}.
    """
    if str(FOLDER) not in sys.path:
        sys.path.append(
            str(FOLDER)
        )  # last, so that whatever both have comes from the book's environment
    found = {}
    for name, module in modules.items():
        try:
            importlib.import_module(module)
            if name == "learn2learn":
                version = importlib.import_module(
                    "learn2learn._version"
                ).__version__
            else:
                version = importlib.metadata.version(module.split(".")[0])
            found[name] = {"version": version}
        except Exception as error:
            found[name] = {"error": reason(error)}
    return found


def reason(error: Exception) -> str:
    """One line for the result, without the paths of this machine."""
    text = re.sub(r"(/[\w.+-]+){2,}", "...", str(error).strip()) or "no message"
    return f"{type(error).__name__}: {text.splitlines()[0]}"


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


def naive_loop(work: "Work", model: nn.Module, episode: mb.Episode) -> Backward:
    """No library: `functional_call`, `autograd.grad`, one task after the other."""
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


def learn2learn(
    work: "Work", model: nn.Module, episode: mb.Episode
) -> Backward:
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


def higher(work: "Work", model: nn.Module, episode: mb.Episode) -> Backward:
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


def torchopt(work: "Work", model: nn.Module, episode: mb.Episode) -> Backward:
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
