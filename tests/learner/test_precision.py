# SPDX-License-Identifier: MIT
"""Every entry in every precision: the result is that of float64 up to the
rounding of the precision, or an error names the precision and the way out,
which is taken.
"""

import contextlib
import copy
import functools
from dataclasses import dataclass

import pytest
import torch
from conftest import small_conv
from learners import OF_A_NETWORK
from torch import nn

import metabook as mb
from metabook.learner.labels import columns_of, label_columns
from metabook.training.evaluate import placed

# relative to the length of the result: rounding grows through a few layers, of
# gradients most; a result that is unrelated errs by its whole length or more
ROUNDINGS = 64

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@dataclass(frozen=True)
class Precision:
    weights: torch.dtype
    autocast: torch.dtype | None = None

    def around(self, device):
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(device, self.autocast)

    @property
    def half(self):
        narrow = self.weights in (torch.bfloat16, torch.float16)
        cast = self.autocast and self.weights != torch.float64
        return bool(narrow or cast)

    @property
    def tolerance(self):
        single = self.weights == torch.float32
        dtype = self.autocast if self.autocast and single else self.weights
        return ROUNDINGS * torch.finfo(dtype).eps


PRECISIONS = {
    "float64": Precision(torch.float64),
    "float32": Precision(torch.float32),
    "bfloat16": Precision(torch.bfloat16),
    "float16": Precision(torch.float16),
    "autocast to bfloat16": Precision(torch.float32, torch.bfloat16),
    "autocast to float16": Precision(torch.float32, torch.float16),
    "bfloat16 in autocast": Precision(torch.bfloat16, torch.bfloat16),
    "float64 in autocast": Precision(torch.float64, torch.bfloat16),
}

INNER_LOOPS = {
    "maml": lambda net: mb.MAML(net, 0.05),
    "maml, first order": lambda net: mb.MAML(net, 0.05, first_order=True),
    "maml, vectorized": lambda net: mb.MAML(net, 0.05, vectorized=True),
    # pulled so that the inner loss is convex, and its minimum well determined
    "implicit maml": lambda net: mb.ImplicitMAML(net, 0.002, 2, lam=200.0),
    "reptile": lambda net: mb.Reptile(net, 0.02, 2),
}
LEARNERS = INNER_LOOPS | {
    "joint training": lambda net: mb.JointTraining(net, 0.05),
    "protonet": mb.ProtoNet,
    "matching": mb.MatchingNet,
    "relation": lambda net: mb.RelationNet(net, features=5, width=8),
    "fine-tuning": lambda net: mb.FineTuning(net, head="cosine", steps=3),
}


def made(name, dtype, device="cpu"):
    torch.manual_seed(0)
    return LEARNERS[name](small_conv(out=5, norm="group")).to(device, dtype)


@functools.cache
def source():
    images = mb.glyphs(classes=10, examples=6, seed=0)
    return mb.FewShotTasks(images, way=5, shot=2, query=3, seed=0)


def parts(learner):
    e = placed(source().sample(2), learner)
    return e.support_x, e.support_y, e.query_x


def flat(tensors):
    return torch.cat([t.detach().flatten().double().cpu() for t in tensors])


# --- entries: (learner, context around the call) to numbers ---


def call(learner, around):
    with around(), torch.no_grad():
        return flat([learner.eval()(*parts(learner)).log_softmax(dim=-1)])


def adapted_inside(learner, around):
    x, y, q = parts(learner.eval())
    with around(), torch.no_grad():
        predictor = learner.adapt(x, y)
    with torch.no_grad():
        return flat([predictor(q).log_softmax(dim=-1)])


def asked_inside(learner, around):
    x, y, q = parts(learner.eval())
    with torch.no_grad():
        predictor = learner.adapt(x, y)
    with around(), torch.no_grad():
        return flat([predictor(q).log_softmax(dim=-1)])


def predict(learner, around):
    """The exact scores of the labels that are chosen: of two that are alike
    either may be.
    """
    with around(), torch.no_grad():
        labels = learner.eval().predict(*parts(learner))
    exact = copy.deepcopy(learner).double()
    x, y, q = parts(exact)
    with torch.no_grad():
        scores = exact(x, y, q).log_softmax(dim=-1)
    columns = columns_of(labels, label_columns(y)[0])
    return flat([scores.gather(-1, columns[..., None])])


def evaluate(learner, around):
    with around():
        score = mb.evaluate(learner, source(), 4, metric="loss")
    return torch.tensor(score.scores)


def compare(learner, around):
    with around():
        both = mb.compare(learner, learner, source(), 4, metric="loss")
    assert both.first.scores.tolist() == both.second.scores.tolist()
    return torch.tensor(both.first.scores)


def evaluate_steps(learner, around):
    with around():
        scores = mb.evaluate_steps(learner, source(), 2, 4, metric="loss")
    return torch.tensor([s.mean for s in scores])


def evaluate_embedded(learner, around):
    with around():
        score = mb.evaluate_embedded(learner, source(), 4, metric="loss")
    return torch.tensor(score.scores)


def loss(learner, around):
    with around():
        value = learner.train().loss(placed(source().sample(2), learner))
    value.backward()
    return gradient(learner)


def backward(learner, around):
    with around():
        learner.train().backward(placed(source().sample(2), learner))
    return gradient(learner)


def gradient(learner):
    return flat(p.grad for p in learner.parameters() if p.grad is not None)


def train(learner, around):
    """How far one long step of plain gradient descent moves the weights."""
    before = flat(learner.parameters())
    sgd = torch.optim.SGD(learner.parameters(), lr=1.0)
    with around():
        mb.train(learner, source(), 1, 2, optimizer=sgd, progress=False)
    return flat(learner.parameters()) - before


PREDICTIONS = [call, adapted_inside, asked_inside, predict, evaluate, compare]
GRADIENTS = [loss, backward, train]


def entries(name):
    learner = made(name, torch.float32)
    yield from PREDICTIONS
    if hasattr(learner, "forward_each_step"):
        yield evaluate_steps
    if hasattr(learner, "embed"):
        yield evaluate_embedded
    if name in ("implicit maml", "reptile"):
        yield from (backward, train)
    elif name != "fine-tuning":  # which learns nothing across tasks
        yield from GRADIENTS


def refused(name, precision, entry):
    if entry not in GRADIENTS:
        return False
    narrow = entry is train and precision.weights == torch.float16
    return narrow or (name in INNER_LOOPS and precision.half)


@functools.cache
def expected(name, entry, dtype):
    """In float64, from weights that were rounded to this type."""
    learner = made(name, dtype)
    return entry(learner.double(), contextlib.nullcontext)


def assert_close(value, exact, tolerance):
    assert value.isfinite().all()
    error = float((value - exact).norm() / exact.norm())
    assert error <= tolerance, f"errs by {error:.2g} of its length"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
@pytest.mark.parametrize(
    ("name", "entry"),
    [
        pytest.param(name, entry, id=f"{name}-{entry.__name__}")
        for name in LEARNERS
        for entry in entries(name)
    ],
)
def test_what_is_asked_is_computed_or_refused(name, entry, precision, device):
    learner = made(name, precision.weights, device)
    around = functools.partial(precision.around, device)
    tolerance = precision.tolerance
    if refused(name, precision, entry):
        with pytest.raises((ValueError, RuntimeError)) as error:
            entry(learner, around)
        message = str(error.value)
        if precision.weights in (torch.bfloat16, torch.float16):
            assert str(precision.weights) in message
            assert "learner.float()" in message
            learner.float()
        else:
            assert "leave autocast" in message
        learner.zero_grad()
        around = contextlib.nullcontext
        tolerance = PRECISIONS["float32"].tolerance
    exact = expected(name, entry, precision.weights)
    assert_close(entry(learner, around), exact, tolerance)


@pytest.mark.parametrize("name", ["protonet", "relation", "joint training"])
def test_training_inside_of_autocast_follows_the_weights(name):
    """One context around the loop gives what one around each step gives."""
    whole, steps = (made(name, torch.float32) for _ in range(2))
    options = {"tasks_per_batch": 2, "progress": False}
    with torch.autocast("cpu", torch.bfloat16):
        mb.evaluate(whole, source(), 2)  # its casts have no graph
        mb.train(whole, source(), 3, lr=0.01, **options)
        inside = mb.evaluate(whole, source(), 8, metric="loss")
    adam = torch.optim.Adam(steps.parameters(), lr=0.01, fused=True)
    for i in range(3):
        adam.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            steps.train().backward(source().sample(2, 2 * i))
        adam.step()
    for a, b in zip(whole.parameters(), steps.parameters(), strict=True):
        assert torch.equal(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert mb.evaluate(steps, source(), 8, metric="loss").mean == (
            inside.mean
        )


def test_full_fine_tuning_inside_of_autocast_follows_its_steps():
    torch.manual_seed(0)
    learner = mb.FullFineTuning(mb.MLP(784, 8), steps=5, lr=0.01)
    images = mb.FewShotTasks(source().images, way=5, shot=2, query=3, seed=0)
    exact = mb.evaluate(learner, images, 8, metric="loss")
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            cast = mb.evaluate(learner, images, 8, metric="loss")
        narrow = mb.evaluate(
            copy.deepcopy(learner).to(dtype), images, 8, metric="loss"
        )
        assert cast.scores == pytest.approx(exact.scores, rel=0.05)
        assert narrow.scores == pytest.approx(exact.scores, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_run_in_another_precision_is_resumed(dtype, tmp_path):
    whole, halves = (made("matching", dtype) for _ in range(2))
    mb.train(whole, source(), 4, 2, progress=False)
    for n in (2, 4):
        mb.train(halves, source(), n, 2, checkpoint=tmp_path, progress=False)
    for a, b in zip(whole.parameters(), halves.parameters(), strict=True):
        assert a.dtype == dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", OF_A_NETWORK)
def test_all_weights_of_a_learner_follow_its_network(name):
    learner = OF_A_NETWORK[name](small_conv(out=5, norm="group").double())
    assert {p.dtype for p in learner.parameters()} == {torch.float64}


def test_data_that_autocast_does_not_cast_are_refused():
    learner = made("protonet", torch.float32)
    x, y, q = parts(learner)
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ValueError, match=r"use support_x\.to\(torch.fl"):
            learner(x.double(), y, q)
        learner(x.double().to(torch.float32), y, q)


def test_tokens_stay_integers_when_a_double_learner_trains():
    bag = nn.Sequential(nn.EmbeddingBag(50, 8), nn.Linear(8, 5)).double()
    tokens = torch.randint(50, (60, 7))
    texts = mb.LabelledImages(tokens, [i // 6 for i in range(60)])
    tasks = mb.FewShotTasks(texts, way=5, shot=2, query=3)
    history = mb.train(mb.ProtoNet(bag), tasks, 2, 2, progress=False)
    assert len(history.losses) == 2
