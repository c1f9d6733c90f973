# SPDX-License-Identifier: MIT
"""The peers of `metric.py`: where they come from, and an episode of
prototypical networks as each one has it.

A function that trains returns one that puts the gradient of the mean query loss
into ``.grad`` of the network's parameters.
"""

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from unittest import mock

import peers
import torch
import torch.nn.functional as F
from peers import FOLDER, LEARN2LEARN, Backward
from torch import Tensor, nn

import metabook as mb

EASYFSL = "easyfsl==1.5.0"
AUTHORS_COMMIT = "b4ff043225dfd9fa687bfae174540beb7ea1e25f"
AUTHORS = (
    "https://raw.githubusercontent.com/jakesnell/prototypical-networks/"
    + AUTHORS_COMMIT
)
AUTHORS_FILES = [
    "protonets/models/" + file
    for file in ("__init__.py", "factory.py", "few_shot.py", "utils.py")
]
# imported at the top by parts that are not used here: data sets, other
# networks, downloads
STAND_INS = [
    "torchvision",
    "torchvision.datasets",
    "torchvision.datasets.folder",
    "torchvision.transforms",
    "torchvision.models",
    "torchvision.models.resnet",
    "pandas",
    "requests",
]


def prepare() -> None:
    """Fetch the peers that are missing; `found` tells later which of them could
    be had.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not (FOLDER / "easyfsl").exists():
        peers.install(EASYFSL)
    if not list(FOLDER.glob("learn2learn/data/transforms.*.so")):
        print(f"building the data code of {LEARN2LEARN}", flush=True)
        build_learn2learn_data()
    if not all((FOLDER / file).exists() for file in AUTHORS_FILES):
        fetch_authors_code()


def fetch_authors_code() -> None:
    """A few files of their repository."""
    for file in AUTHORS_FILES:
        url = f"{AUTHORS}/{file}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                text = answer.read()
        except OSError as error:
            print(f"the authors' code cannot be had: {error}")
            return
        (FOLDER / file).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / file).write_bytes(text)


def build_learn2learn_data() -> None:
    """Its C code is older than today's Python: make it anew from its Cython
    code, with a Cython of that time.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = peers.source_of(LEARN2LEARN, Path(folder))
        cython = Path(folder) / "cython"
        if source is None or not peers.install("Cython<3", folder=cython):
            return
        for generated in source.glob("learn2learn/data/*.c"):
            generated.unlink()
        built = subprocess.run(
            [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
            cwd=source,
            env=os.environ | {"PYTHONPATH": str(cython)},
            check=False,
        )
        if built.returncode:
            return
        ours, theirs = FOLDER / "learn2learn", source / "learn2learn"
        for part in ("data", "utils"):
            shutil.copytree(theirs / part, ours / part, dirs_exist_ok=True)
        shutil.copy(theirs / "_version.py", ours)


def found() -> dict[str, dict[str, str]]:
    """Import every peer: {name: {"version": ...}} or {name: {"error": why
    not}}.
    """
    absent = [name for name in STAND_INS if not is_there(name)]
    sys.modules.update({name: mock.MagicMock() for name in absent})
    try:
        answer = peers.available(
            {"easyfsl": "easyfsl.utils", "learn2learn": "learn2learn.data"}
        )
        answer["authors"] = {"version": AUTHORS_COMMIT}
        rest = {
            "easyfsl": "easyfsl.samplers",
            "learn2learn": "learn2learn.utils",
            "authors": "protonets.models.few_shot",
        }
        for name, module in rest.items():
            try:
                importlib.import_module(module)
            except Exception as error:
                answer[name] = {"error": peers.reason(error)}
        return answer
    finally:
        for name in absent:
            del sys.modules[name]


def is_there(name: str) -> bool:
    try:
        importlib.import_module(name)
    except Exception:  # not installed, or made for another torch
        return False
    return True


def embedding() -> nn.Module:
    """The four blocks as the peers have them: convolution with bias, batch
    norm, ReLU, max-pooling.
    """
    blocks: list[nn.Module] = []
    for channels in (1, 64, 64, 64):
        blocks += [
            nn.Conv2d(channels, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*blocks, nn.Flatten())


def one(episode: mb.Episode) -> tuple[Tensor, ...]:
    """Support and query set of the single task, as peers take them."""
    return (
        episode.support_x[0],
        episode.support_y[0],
        episode.query_x[0],
        episode.query_y[0],
    )


def easyfsl(model: nn.Module, episode: mb.Episode) -> Backward:
    """https://github.com/sicara/easy-few-shot-learning/blob/master/notebooks/episodic_training.ipynb."""
    from easyfsl.methods import PrototypicalNetworks

    support_x, support_y, query_x, query_y = one(episode)
    classifier = PrototypicalNetworks(model)

    def backward() -> None:
        classifier.process_support_set(support_x, support_y)
        F.cross_entropy(classifier(query_x), query_y).backward()

    return backward


def learn2learn(model: nn.Module, episode: mb.Episode) -> Backward:
    """As
    https://github.com/learnables/learn2learn/blob/master/examples/vision/protonet_miniimagenet.py
    does it.

    The example takes support and queries of a class in a row, makes the network
    embed all, and broadcasts queries against prototypes; of the library it uses
    the network and the data.
    """
    support_x, support_y, query_x, query_y = one(episode)
    data, labels = (
        torch.cat([support_x, query_x]),
        torch.cat([support_y, query_y]),
    )
    way = int(support_y.max()) + 1
    shot, each = len(support_x) // way, len(data) // way

    def backward() -> None:
        order = torch.sort(labels, stable=True).indices
        z, y = model(data[order]), labels[order]
        is_support = torch.arange(len(z)) % each < shot
        prototypes = z[is_support].reshape(way, shot, -1).mean(dim=1)
        queries = z[~is_support]
        n, d = len(queries), z.shape[1]
        differences = queries[:, None].expand(n, way, d) - prototypes[
            None
        ].expand(n, way, d)
        F.cross_entropy(-(differences**2).sum(dim=2), y[~is_support]).backward()

    return backward


def authors(model: nn.Module, episode: mb.Episode) -> Backward:
    """https://github.com/jakesnell/prototypical-networks: examples lead with
    their class, labels are implied.
    """
    from protonets.models.few_shot import Protonet

    support_x, support_y, query_x, _ = one(episode)
    way = int(support_y.max()) + 1
    sample = {
        "xs": support_x.unflatten(0, (way, -1)),
        "xq": query_x.unflatten(0, (way, -1)),
    }
    learner = Protonet(model)
    return lambda: learner.loss(sample)[0].backward()
