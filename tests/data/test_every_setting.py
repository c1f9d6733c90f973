# SPDX-License-Identifier: MIT
"""No argument that changes the result is missing from what a run is known by:
every argument of every constructor is tried, and a new one fails here until it
is.
"""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import metabook as mb
from metabook.data.settings import described, differences, settings
from metabook.nas.candidates import TrainAndScore, glyph_network

NET = nn.Sequential(nn.Flatten(), nn.Linear(784, 4), nn.Linear(4, 4))
OTHER_NET = nn.Sequential(nn.Flatten(), nn.Linear(784, 5))
SPACE = mb.nas.SearchSpace({"a": [1, 2], "b": [3, 4]})
OTHER_SPACE = mb.nas.SearchSpace({"a": [1, 2], "b": [4, 3]})
IMAGES = mb.glyphs(classes=12, seed=0)
OTHER_IMAGES = mb.glyphs(classes=12, seed=1)
TASKS = mb.FewShotTasks(IMAGES, way=2, shot=1, query=2)
OTHER_TASKS = mb.FewShotTasks(IMAGES, way=2, shot=2, query=2)

# how it is computed, and not what
EXECUTION = {"vectorized": True, "threads": 2, "compiled": True}
INNER = {"model": OTHER_NET, "inner_lr": 0.3, "inner_steps": 7}
INNER |= {"loss_fn": F.mse_loss}
OUTER = {"first_order": True, "query_dtype": torch.bfloat16}
EMBEDDING = {"embedding": OTHER_NET, "embedding_dtype": torch.bfloat16}

# what is needed, and another value of every argument
KINDS = {
    mb.MAML: ({"model": NET}, INNER | OUTER),
    mb.ANIL: ({"model": NET}, INNER | OUTER | {"head": "1"}),
    mb.MetaSGD: ({"model": NET}, INNER | OUTER),
    mb.JointTraining: ({"model": NET}, INNER | OUTER),
    mb.Reptile: ({"model": NET}, INNER),
    mb.ImplicitMAML: ({"model": NET}, INNER | {"lam": 2.0, "cg_steps": 3}),
    mb.MAMLPlusPlus: (
        {"model": NET},
        INNER
        | OUTER
        | {"per_step_lr": False, "per_step_norm": False}
        | {"multi_step_until": 3, "first_order_until": 3},
    ),
    mb.ProtoNet: (
        {"embedding": NET},
        EMBEDDING
        | {"distance": "cosine", "temperature": 2.0, "learn_temperature": True},
    ),
    mb.MatchingNet: ({"embedding": NET}, EMBEDDING | {"scale": 3.0}),
    mb.RelationNet: (
        {"embedding": NET, "features": 4},
        EMBEDDING | {"features": 5, "width": 3, "loss_fn": F.mse_loss},
    ),
    mb.NearestNeighbour: (
        {"embedding": NET},
        {"embedding": OTHER_NET, "distance": "cosine"},
    ),
    mb.NearestCentroid: (
        {"embedding": NET},
        {"embedding": OTHER_NET, "center": torch.ones(4), "normalize": False},
    ),
    mb.FineTuning: (
        {"embedding": NET},
        {"embedding": OTHER_NET, "head": "cosine", "steps": 99}
        | {"lr": 0.02, "scale": 5.0},
    ),
    mb.FullFineTuning: (
        {"embedding": NET},
        {"embedding": OTHER_NET, "steps": 99, "lr": 0.02, "batch": 31},
    ),
    mb.FewShotTasks: (
        {"images": IMAGES, "way": 2, "shot": 1},
        {"images": OTHER_IMAGES, "way": 3, "shot": 2, "query": 3, "seed": 1}
        | {"transform": torch.relu},
    ),
    mb.VariedTasks: (
        {"images": IMAGES, "way": (2, 3), "shot": (1, 2)},
        {"images": OTHER_IMAGES, "way": (2, 4), "shot": (1, 3), "query": 3}
        | {"seed": 1, "transform": torch.relu},
    ),
    mb.Sinusoids: ({}, {"shot": 3, "query": 3, "seed": 1}),
    mb.nas.SearchSpace: (
        {"decisions": SPACE.decisions},
        {"decisions": OTHER_SPACE.decisions, "constraint": any}
        | {"canonical": tuple},
    ),
    mb.nas.RandomSearch: ({"space": SPACE}, {"seed": 1}),
    mb.nas.LocalSearch: ({"space": SPACE}, {"seed": 1}),
    mb.nas.RegularizedEvolution: (
        {"space": SPACE, "population": 6, "sample": 3},
        {"population": 7, "sample": 4, "seed": 1},
    ),
    mb.nas.Reinforce: (
        {"space": SPACE},
        {"controller": "independent", "lr": 0.3, "entropy": 0.1, "decay": 0.5}
        | {"hidden": 4, "seed": 1},
    ),
    TrainAndScore: (
        {"build": glyph_network, "tasks": TASKS, "valid": TASKS},
        {"build": mb.Conv4, "tasks": OTHER_TASKS, "valid": OTHER_TASKS}
        | {"iterations": 3, "episodes": 3, "lr": 0.1, "tasks_per_batch": 2}
        | {"learner": mb.MatchingNet, "seed": 1},
    ),
}
# `search` notes the space itself, for any strategy
ELSEWHERE = {"space"}
# what is learned from there on: a number among the weights
IN_THE_WEIGHTS = {(mb.MatchingNet, "scale"), (mb.NearestCentroid, "center")}

CASES = [
    pytest.param(kind, name, id=f"{kind.__name__}, {name}")
    for kind, (_, others) in KINDS.items()
    for name in others
]


@pytest.mark.parametrize("kind", KINDS)
def test_no_argument_is_without_a_case(kind):
    arguments = set(inspect.signature(kind).parameters)
    arguments -= set(EXECUTION) | ELSEWHERE
    assert arguments == set(KINDS[kind][1])


# what everyone passes in order; the rest has a name in every call
IN_ORDER = {"model", "inner_lr", "inner_steps", "embedding", "space"}
IN_ORDER |= {"images", "way", "shot", "query", "decisions"}


@pytest.mark.parametrize("kind", [k for k in KINDS if k is not TrainAndScore])
def test_other_arguments_go_by_their_names(kind):
    parameters = inspect.signature(kind).parameters.values()
    for p in parameters:
        in_order = p.kind is p.POSITIONAL_OR_KEYWORD
        assert in_order == (p.name in IN_ORDER), p.name
        assert in_order or p.kind is p.KEYWORD_ONLY, p.name


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_another_value_of_any_argument_is_another_run(kind, name):
    needed, others = KINDS[kind]
    plain = kind(**needed)
    assert differences(settings(plain), settings(kind(**needed))) == []
    changed = kind(**needed | {name: others[name]})
    if (kind, name) in IN_THE_WEIGHTS:
        assert differences(described(plain), described(changed))
    else:
        assert differences(settings(plain), settings(changed))


HOW = [
    pytest.param(kind, name, id=f"{kind.__name__}, {name}")
    for kind, (needed, _) in KINDS.items()
    if "model" in needed
    for name in EXECUTION
    if name in inspect.signature(kind).parameters
]


@pytest.mark.parametrize(("kind", "name"), HOW)
def test_how_it_is_computed_is_no_other_run(kind, name):
    plain, changed = kind(NET), kind(NET, **{name: EXECUTION[name]})
    assert differences(settings(plain), settings(changed)) == []
