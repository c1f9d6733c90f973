# SPDX-License-Identifier: MIT
"""What two settings must have in common to be called the same."""

import copy
import json
import math
import subprocess
import sys
import types
from enum import Enum
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from learners import BASELINES, LEARNERS
from torch import nn

import metabook as mb
from metabook.data.settings import described, differences, settings


class Colour(Enum):
    RED = 1


class Buffered(nn.Module):
    """A number that its state leaves out."""

    def __init__(self, value):
        super().__init__()
        self.register_buffer("value", torch.tensor(value), persistent=False)


def same(a, b):
    return differences(described(a), described(b)) == []


def smoothed(eps):
    return lambda p, t: F.cross_entropy(p, t, label_smoothing=eps)


def weighted(weight):
    def loss(p, t, scale=1.0):
        return scale * F.cross_entropy(p, t, weight=weight)

    return loss


def in_a_notebook(source, **names):
    """A function as a notebook defines it."""
    namespace = {"__name__": "__main__", "F": F, **names}
    exec(source, namespace)
    return namespace["f"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: None,
        lambda: 0.1,
        lambda: math.inf,
        lambda: (1, "a", [True]),
        lambda: {"b": 1, "a": {2, 3}},
        lambda: torch.float16,
        lambda: torch.device("cpu"),
        lambda: torch.arange(6.0).view(2, 3),
        lambda: torch.arange(6.0, dtype=torch.bfloat16).view(2, 3).T,
        lambda: np.arange(6),
        lambda: np.array(["a", None]),
        lambda: b"a",
        lambda: Buffered(1.0),
        lambda: np.float32(0.5),
        lambda: Colour.RED,
        lambda: F.mse_loss,
        lambda: F.gelu,
        lambda: torch.relu,
        lambda: math.sqrt,
        lambda: mb.ProtoNet,
        lambda: mb.nas.glyph_table,  # behind functools.cache
        lambda: partial(F.cross_entropy, label_smoothing=0.1),
        lambda: smoothed(0.1),
        lambda: weighted(torch.ones(3)),
        lambda: nn.CrossEntropyLoss(label_smoothing=0.1),
        lambda: mb.nas.glyph_table().valid,
        lambda: in_a_notebook("def f(p, t): return F.mse_loss(p, t)"),
    ],
)
def test_what_is_made_anew_is_the_same(make):
    assert same(make(), make())
    json.dumps(described(make()), allow_nan=False)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (0.1, 0.2),
        (None, 0),
        ((1, 2), (2, 1)),
        (torch.zeros(2), torch.zeros(2, 1)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
        (np.arange(3), np.arange(3.0)),
        (np.array(["a", None]), np.array(["b", None])),
        (b"a", b"b"),
        (Buffered(1.0), Buffered(2.0)),
        (F.mse_loss, F.l1_loss),
        (smoothed(0.1), smoothed(0.2)),
        (weighted(torch.ones(3)), weighted(torch.zeros(3))),
        (lambda p, t: (p - t).abs().sum(), lambda p, t: (p - t).abs().mean()),
        (lambda p, t: 2 * p, lambda p, t: 3 * p),
        (lambda p, t=1: p, lambda p, t=2: p),
        (lambda p: [2 * x for x in p], lambda p: [3 * x for x in p]),
        (partial(F.cross_entropy, label_smoothing=0.1), F.cross_entropy),
        (
            partial(F.cross_entropy, label_smoothing=0.1),
            partial(F.cross_entropy, label_smoothing=0.2),
        ),
        (nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss()),
        (
            nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])),
            nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0])),
        ),
        (nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU(), nn.ReLU())),
        (nn.Sequential(nn.Dropout(0.1)), nn.Sequential(nn.Dropout(0.2))),
        (
            in_a_notebook("def f(p, t): return F.mse_loss(p, t)"),
            in_a_notebook("def f(p, t): return F.l1_loss(p, t)"),
        ),
        (
            in_a_notebook("def f(p, t): return EPS * F.mse_loss(p, t)", EPS=1),
            in_a_notebook("def f(p, t): return EPS * F.mse_loss(p, t)", EPS=2),
        ),
        (
            in_a_notebook("f = lambda p, t: (lambda q: q * EPS)(p)", EPS=1),
            in_a_notebook("f = lambda p, t: (lambda q: q * EPS)(p)", EPS=2),
        ),
        (mb.nas.glyph_table().valid, mb.nas.glyph_table().test),
    ],
)
def test_what_computes_something_else_is_not_the_same(a, b):
    assert not same(a, b)
    assert same(a, a) and same(b, b)


def test_where_a_function_stands_and_how_its_variables_are_called_is_nothing():
    assert same(
        in_a_notebook("f = lambda p, t: p - t"),
        in_a_notebook("\n\n\nf = lambda a, b: a - b  # as before"),
    )


def test_calling_a_function_often_changes_nothing():
    """Python rewrites the bytecode of what is called often."""
    function = smoothed(0.1)
    before = described(function)
    for _ in range(2000):
        function(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))
    assert described(function) == before


def test_a_function_that_calls_itself_comes_to_an_end():
    def make(base):
        def factorial(n):
            return base if n == 0 else n * factorial(n - 1)

        return factorial

    assert same(make(1), make(1)) and not same(make(1), make(2))


def test_no_address_gets_into_a_description_in_any_program():
    code = (
        "import json, torch; from functools import partial;"
        "from metabook.data.settings import described;"
        "import torch.nn.functional as F; w = torch.ones(2);"
        "print(json.dumps(described([lambda p: p in {'a', 'b', 'c'},"
        " lambda: w, partial(F.mse_loss, reduction='sum'), {'x', 'y', 'z'},"
        " torch.nn.Linear(1, 1).forward.__func__])))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1


class Opaque:
    pass


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Opaque(), "the loss is a Opaque"),
        ([1, Opaque()], r"the loss\[1\] is a Opaque"),
        ({"a": Opaque()}, r"the loss\.a is a Opaque"),
        (weighted(Opaque()), "weight, which the loss uses, is a Opaque"),
        (partial(F.mse_loss, x=Opaque()), r"the loss\.keywords\.x is a Opaque"),
        (Opaque().__init__, "the loss is a "),
    ],
)
def test_what_cannot_be_known_is_named_with_a_way_out(value, name):
    with pytest.raises(TypeError, match=f"{name}.*method settings"):
        described(value, "the loss")


def test_an_object_without_settings_has_none():
    with pytest.raises(TypeError, match="the tasks is a Opaque.*settings"):
        settings(Opaque(), "the tasks")


def test_the_way_out_works_for_objects_and_for_functions():
    def make(width):
        thing = Opaque()
        thing.settings = lambda: {"width": width}
        function = weighted(Opaque())
        function.settings = lambda: {"width": width}
        return [thing, function]

    assert same(make(1), make(1))
    assert differences(described(make(1)), described(make(2)), "x") == [
        "x[0].width (was 1, is 2)",
        "x[1].width (was 1, is 2)",
    ]
    thing = Opaque()
    thing.settings = lambda: 3
    with pytest.raises(TypeError, match="returned a int; it returns a dict"):
        described(thing)


def test_a_later_version_of_torch_may_have_more_options(monkeypatch):
    """As a new attribute of a layer would be."""
    before = settings(nn.Sequential(nn.Conv2d(1, 2, 3)))
    layer = nn.Conv2d(1, 2, 3)
    layer.algorithm = "fast"
    layer.helper = Opaque()
    assert differences(before, settings(nn.Sequential(layer))) == []
    assert differences(settings(nn.Sequential(layer)), before) == []

    class Mine(nn.Module):
        def __init__(self, **options):
            super().__init__()
            vars(self).update(options)

    assert differences(settings(Mine()), settings(Mine(width=3))) == [
        "width (was 'not there', is 3)"
    ]
    with pytest.raises(TypeError, match=r"net\.helper is a Opaque"):
        settings(Mine(helper=Opaque()), "net")


def test_of_a_model_structure_counts_and_not_weights():
    def net(width=4, slope=0.1):
        return nn.Sequential(nn.Linear(3, width), nn.LeakyReLU(slope))

    assert differences(settings(net()), settings(net())) == []
    assert differences(settings(net()), settings(net(5)), "net") == [
        "net.modules.0.out_features (was 4, is 5)"
    ]
    assert differences(settings(net()), settings(net(slope=0.2)), "net") == [
        "net.modules.1.negative_slope (was 0.1, is 0.2)"
    ]
    # as a value, in a loss for example, its weights are data
    assert not same(partial(F.mse_loss, net()), partial(F.mse_loss, net()))


@pytest.mark.parametrize("name", LEARNERS | BASELINES)
def test_every_learner_says_the_same_of_itself_when_made_anew(name):
    make = (LEARNERS | BASELINES)[name]
    first, second = settings(make(), "learner"), settings(make(), "learner")
    assert differences(first, second) == []
    json.dumps(first, allow_nan=False)
    learner = make().eval()
    assert differences(first, settings(learner, "learner")) == []
    copied = settings(copy.deepcopy(learner), "learner")
    assert differences(first, copied) == []


NET = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
MODEL = nn.Sequential(nn.Flatten(), nn.Linear(4, 5))


@pytest.mark.parametrize(
    ("name", "a", "b"),
    [
        (
            "temperature",
            lambda: mb.ProtoNet(NET),
            lambda: mb.ProtoNet(NET, temperature=0.5),
        ),
        (
            "learn_temperature",
            lambda: mb.ProtoNet(NET),
            lambda: mb.ProtoNet(NET, learn_temperature=True),
        ),
        (
            "distance",
            lambda: mb.ProtoNet(NET),
            lambda: mb.ProtoNet(NET, distance="cosine"),
        ),
        (
            "embedding_dtype",
            lambda: mb.ProtoNet(NET),
            lambda: mb.ProtoNet(NET, embedding_dtype=torch.bfloat16),
        ),
        (
            "loss_fn",
            lambda: mb.RelationNet(NET, features=4),
            lambda: mb.RelationNet(NET, features=4, loss_fn=F.cross_entropy),
        ),
        (
            "out_features",
            lambda: mb.RelationNet(NET, features=4),
            lambda: mb.RelationNet(NET, features=4, width=8),
        ),
        (
            "steps",
            lambda: mb.FineTuning(NET),
            lambda: mb.FineTuning(NET, steps=3),
        ),
        (
            "normalize",
            lambda: mb.NearestCentroid(NET),
            lambda: mb.NearestCentroid(NET, normalize=False),
        ),
        (
            "inner_lr",
            lambda: mb.MAML(MODEL),
            lambda: mb.MAML(MODEL, inner_lr=0.5),
        ),
        (
            "inner_steps",
            lambda: mb.MAML(MODEL),
            lambda: mb.MAML(MODEL, inner_steps=5),
        ),
        (
            "first_order",
            lambda: mb.MAML(MODEL),
            lambda: mb.MAML(MODEL, first_order=True),
        ),
        ("a metabook", lambda: mb.MAML(MODEL), lambda: mb.ANIL(MODEL)),
    ],
)
def test_another_setting_of_a_learner_is_found_by_its_name(name, a, b):
    found = differences(settings(a()), settings(b()), "learner")
    assert any(name in line for line in found), found


def test_threads_are_no_setting():
    a, b = (
        settings(mb.MAML(MODEL, vectorized=False, threads=n)) for n in (1, 2)
    )
    assert differences(a, b) == []


@pytest.mark.parametrize("kind", [mb.FewShotTasks, mb.VariedTasks])
def test_tasks_are_known_by_their_data_and_numbers(images, kind):
    def make(of=images, **changes):
        return kind(
            of, **{"way": 5, "shot": 2, "query": 3, "seed": 0} | changes
        )

    for name, other in (
        ("way", make(way=4)),
        ("shot", make(shot=1)),
        ("query", make(query=2)),
        ("seed", make(seed=1)),
        ("images", make(of=images.subset([*range(39, -1, -1)]))),
    ):
        found = differences(settings(make()), settings(other))
        assert found and all(line.startswith(name) for line in found), found
    copied = mb.LabelledImages(
        images.images.clone(),
        np.repeat(np.arange(40), 20),
        names=[f"another name {i}" for i in range(40)],
    )
    assert differences(settings(make()), settings(make(of=copied))) == []


def test_modules_of_python_and_their_attributes_are_not_taken_for_settings():
    module = types.ModuleType("some_module")
    module.settings = lambda: {"a": 1}
    assert described(module) == "some_module"
