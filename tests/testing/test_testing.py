# SPDX-License-Identifier: MIT
"""A learner that breaks the contract is caught, and told at which clause."""

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import metabook as mb
from metabook.learner.labels import query_targets
from metabook.testing import check_learner


class Course(mb.NearestCentroid):
    """What a student might hand in; it is right."""

    def __init__(self):
        super().__init__(nn.Flatten(), normalize=False)


class SeesOtherQueries(Course):
    def forward(self, support_x, support_y, query_x):
        return super().forward(
            support_x, support_y, query_x - query_x.mean(dim=1, keepdim=True)
        )


class DeclaredTransductive(Course):
    transductive = True


class ChangesItsState(Course):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, support_x, support_y, query_x):
        self.seen += len(support_x)
        return super().forward(support_x, support_y, query_x)


class AddsState(Course):
    def forward(self, support_x, support_y, query_x):
        self.register_buffer("prototypes", support_x.mean(dim=1))
        return super().forward(support_x, support_y, query_x)


class RemembersTheLastTask(Course):
    """Outside of its state, where only the second call shows it."""

    last = None

    def forward(self, support_x, support_y, query_x):
        x = (
            support_x
            if self.last is None
            else (support_x + self.last.mean()) / 2
        )
        self.last = support_x
        return super().forward(x, support_y, query_x)


class DrawsRandomNumbers(Course):
    def forward(self, support_x, support_y, query_x):
        return super().forward(
            support_x + 1e-3 * torch.randn_like(support_x), support_y, query_x
        )


class ReseedsButDiffers(Course):
    calls = 0

    def forward(self, support_x, support_y, query_x):
        self.calls += 1
        noise = torch.Generator().manual_seed(self.calls)
        return super().forward(support_x, support_y, query_x) + torch.rand(
            1, generator=noise
        )


class MixesTasks(Course):
    def forward(self, support_x, support_y, query_x):
        return super().forward(
            support_x - support_x.mean(dim=0, keepdim=True), support_y, query_x
        )


class OrderOfAppearance(Course):
    def forward(self, support_x, support_y, query_x):
        scores = super().forward(support_x, support_y, query_x)
        seen = torch.tensor(
            [list(dict.fromkeys(y.tolist())) for y in support_y]
        )
        return scores.gather(
            2, seen.argsort(dim=1)[:, None].expand_as(scores).argsort(dim=2)
        )


class FirstExampleAlone(Course):
    """Takes the first example of each class for the class."""

    def forward(self, support_x, support_y, query_x):
        first = [
            [y.tolist().index(c) for c in sorted(set(y.tolist()))]
            for y in support_y
        ]
        x = torch.stack(
            [x[rows] for x, rows in zip(support_x, first, strict=True)]
        )
        y = torch.stack(
            [y[rows] for y, rows in zip(support_y, first, strict=True)]
        )
        return super().forward(x, y, query_x)


class ClassesByPosition(Course):
    def forward(self, support_x, support_y, query_x):
        way = len(support_y[0].unique())
        shot = support_x.shape[1] // way
        return super().forward(
            support_x,
            torch.arange(way).repeat_interleave(shot).expand_as(support_y),
            query_x,
        )


class LabelsAreARange(Course):
    def forward(self, support_x, support_y, query_x):
        return super().forward(
            support_x, F.one_hot(support_y).argmax(dim=-1), query_x
        )


class UsesLabelsAsNumbers(Course):
    def forward(self, support_x, support_y, query_x):
        return (
            super().forward(support_x, support_y, query_x)
            * support_y.double().std()
        )


class PredictsColumns(Course):
    def predict(self, support_x, support_y, query_x):
        return self(support_x, support_y, query_x).argmax(dim=-1)


class WritesIntoItsInputs(Course):
    def forward(self, support_x, support_y, query_x):
        query_x -= 0.5
        support_x -= 0.5
        return super().forward(support_x, support_y, query_x)


class SwapsDimensions(Course):
    def forward(self, support_x, support_y, query_x):
        scores = super().forward(support_x, support_y, query_x)
        return scores.mT.reshape(scores.shape)


class WrongShape(Course):
    def forward(self, support_x, support_y, query_x):
        return super().forward(support_x, support_y, query_x).mT


class StaysInTrainingMode(Course):
    def forward(self, support_x, support_y, query_x):
        self.train()
        return super().forward(support_x, support_y, query_x)


class LeavesGradients(Course):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, support_x, support_y, query_x):
        with torch.enable_grad():
            (self.scale * support_x.mean()).backward()
        return super().forward(support_x, support_y, query_x)


class ForgivesForeignLabels(Course):
    def loss(self, episode):
        scores = self(episode.support_x, episode.support_y, episode.query_x)
        return F.cross_entropy(
            scores.flatten(0, 1),
            episode.query_y.flatten().clamp(max=scores.shape[-1] - 1),
        )


class Scaled(Course):
    """With something to learn."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, support_x, support_y, query_x):
        return self.scale * super().forward(support_x, support_y, query_x)


class ForgetsGradients(Scaled):
    def forward(self, support_x, support_y, query_x):
        with torch.no_grad():
            return super().forward(support_x, support_y, query_x)


class Votes(Scaled):
    """Of which class a query is, in place of how much."""

    def forward(self, support_x, support_y, query_x):
        scores = super().forward(support_x, support_y, query_x)
        return F.one_hot(scores.argmax(dim=-1), scores.shape[-1]).float()


class GoesThroughNumpy(Scaled):
    def forward(self, support_x, support_y, query_x):
        scores = super().forward(support_x, support_y, query_x)
        return torch.from_numpy(scores.detach().numpy())


class OtherParameters(Scaled):
    """The loss depends on a tensor that is none of its parameters."""

    def __init__(self):
        super().__init__()
        self.hidden = [torch.ones((), requires_grad=True)]

    def forward(self, support_x, support_y, query_x):
        scores = Course.forward(self, support_x, support_y, query_x)
        return self.hidden[0] * scores


class IsNotANumber(Course):
    def forward(self, support_x, support_y, query_x):
        return super().forward(support_x, support_y, query_x) * torch.nan


class TakesTheLogarithmOfZero(Course):
    def forward(self, support_x, support_y, query_x):
        return (0 * super().forward(support_x, support_y, query_x)).log()


class DividesByTheDeviationOfOneQuery(Course):
    transductive = True

    def forward(self, support_x, support_y, query_x):
        spread = query_x.flatten(2).mean(dim=2).std(dim=1)[:, None, None]
        return super().forward(support_x, support_y, query_x) / spread


class DrawsWithNumpy(Course):
    def forward(self, support_x, support_y, query_x):
        np.random.rand()  # noqa: NPY002
        return super().forward(support_x, support_y, query_x)


class DrawsWithPython(Course):
    def forward(self, support_x, support_y, query_x):
        random.random()
        return super().forward(support_x, support_y, query_x)


class AdaptsToSomethingElse(Course):
    def remember(self, support_x, support_y):
        return super().remember(support_x.flip(1), support_y)


BROKEN = {
    SeesOtherQueries: (
        "declared inductive, but a query alone is answered differently than in"
        " company: look for statist"
    ),
    DeclaredTransductive: (
        "declared transductive, but a query alone is answered as in company:"
        " return False"
    ),
    ChangesItsState: (
        "changes its own seen when it is called: what is learned from a support"
        " set belongs to the call"
    ),
    AddsState: "changes its own prototypes when it is called",
    RemembersTheLastTask: (
        "answers the same question differently the second time: look for what"
        " one call leaves"
    ),
    ReseedsButDiffers: "answers the same question differently the second time",
    DrawsRandomNumbers: (
        "draws from global random numbers: use a torch.Generator"
    ),
    MixesTasks: (
        "answers a task differently when other tasks are in the batch: look for"
        " means"
    ),
    OrderOfAppearance: (
        "depends on the order of the support set: look for classes numbered in"
        " order of appearance"
    ),
    FirstExampleAlone: "depends on the order of the support set",
    ClassesByPosition: (
        "gives the same scores whatever the labels of the support set: look for"
        " classes told by posit"
    ),
    LabelsAreARange: (
        "fails when classes are called -7, -4, 5, .* column j belongs to the"
        " j-th smallest"
    ),
    UsesLabelsAsNumbers: "scores differently when classes are called -7, -4, 5",
    PredictsColumns: (
        "does not return the labels of the support set from predict: look at"
        " its method predict"
    ),
    WritesIntoItsInputs: "writes into support_x: look for operations in place",
    SwapsDimensions: (
        "does not permute its predictions when the queries are permuted: look"
        " for a reshape"
    ),
    WrongShape: (
        r"returns scores of shape \(3, 5, 15\) in place of \(tasks, queries,"
        r" classes\) = \(3, 15, 5\)"
    ),
    StaysInTrainingMode: "changes the mode of its modules: look for .train",
    LeavesGradients: (
        "leaves a gradient in its parameters' .grad: use torch.autograd.grad"
    ),
    ForgetsGradients: (
        "has scores without a gradient: its loss depends on none of its"
        " parameters: look for torch.no_grad, .detach"
    ),
    Votes: "has scores without a gradient",
    GoesThroughNumpy: "has scores without a gradient",
    OtherParameters: "has scores without a gradient",
    IsNotANumber: "returns nan among its scores: look for a division by zero",
    TakesTheLogarithmOfZero: "returns -inf among its scores",
    DividesByTheDeviationOfOneQuery: (
        "returns nan among its scores: look for a division by zero, as by the"
        " deviation of a single example"
    ),
    DrawsWithNumpy: "draws from global random numbers",
    DrawsWithPython: "draws from global random numbers",
    AdaptsToSomethingElse: (
        "answers differently when it adapts first and is asked then: look at"
        " its methods remember and answer"
    ),
    ForgivesForeignLabels: (
        "accepts a query whose label is not in its support set: let loss"
        " compare"
    ),
}


def test_a_learner_that_is_right_passes():
    check_learner(Course())
    check_learner(mb.ProtoNet(mb.Conv4()))


@pytest.mark.filterwarnings("ignore:std")
@pytest.mark.parametrize("broken", BROKEN, ids=lambda c: c.__name__)
def test_a_broken_learner_is_caught_and_told_where_to_look(broken):
    with pytest.raises(
        AssertionError, match=f"^{broken.__name__} .*{BROKEN[broken]}"
    ):
        check_learner(broken())


def test_a_learner_that_has_nothing_to_learn_needs_no_gradient():
    check_learner(Scaled())
    for way_out in (
        lambda learner: learner.requires_grad_(False),
        lambda learner: setattr(learner, "backward", untrained),
    ):
        learner = ForgetsGradients()
        way_out(learner)
        check_learner(learner)


def untrained(episode):
    raise NotImplementedError("there is nothing to learn across tasks")


def test_the_question_about_gradients_leaves_nothing(tasks):
    """In training mode batch norm moves and dropout draws."""
    net = nn.Sequential(mb.Conv4(width=4), nn.Dropout(0.5))
    learner = mb.ProtoNet(net).eval()
    learner.embedding[1].train()
    next(learner.parameters()).grad = torch.ones(4, 1, 3, 3)
    state = copy.deepcopy(learner.state_dict())
    random_state = torch.get_rng_state()
    check_learner(learner, tasks.sample(2))
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            state.values(), learner.state_dict().values(), strict=True
        )
    )
    grads = [p.grad for p in learner.parameters()]
    assert torch.equal(grads[0], torch.ones(4, 1, 3, 3))
    assert grads[1:] == [None] * (len(grads) - 1)
    assert [m.training for m in (learner, *net)] == [False, False, True]
    assert torch.equal(random_state, torch.get_rng_state())


def test_rounding_is_no_violation(tasks):
    """Adam divides a gradient that is zero but for rounding by its size, so
    that the order of the support set shows in single precision.
    """
    learner = mb.FineTuning(mb.Conv4(width=4)).eval()
    episode, order = (
        tasks.sample(2),
        torch.tensor([3, 0, 8, 5, 1, 9, 2, 7, 4, 6]),
    )
    x, y, q = episode.support_x, episode.support_y, episode.query_x
    with torch.no_grad():
        a, b = learner(x, y, q), learner(x[:, order], y[:, order], q)
    assert (a - b).abs().max() > 1e-3 * a.abs().max()
    check_learner(learner, episode)


def test_regression_is_checked_too():
    check_learner(
        mb.MAML(mb.MLP(1, 1), loss_fn=F.mse_loss), mb.Sinusoids().sample(3)
    )

    class Mixed(mb.MAML):
        def forward(self, support_x, support_y, query_x, steps=None):
            return (
                super().forward(support_x, support_y, query_x, steps)
                + query_x.mean()
            )

    with pytest.raises(
        AssertionError,
        match=(
            "Mixed answers a task differently when other tasks are in the batch"
        ),
    ):
        check_learner(
            Mixed(mb.MLP(1, 1), loss_fn=F.mse_loss), mb.Sinusoids().sample(3)
        )


def test_the_learner_is_left_as_it_was(tasks):
    learner = mb.ProtoNet(mb.Conv4(width=4)).train()
    before = [p.clone() for p in learner.state_dict().values()]
    check_learner(learner, tasks.sample(2))
    assert learner.training
    assert all(
        torch.equal(a, b)
        for a, b in zip(before, learner.state_dict().values(), strict=True)
    )


def test_what_cannot_be_checked_is_named(tasks):
    with pytest.raises(
        TypeError, match=r"Linear is no metabook.Learner: derive from it"
    ):
        check_learner(nn.Linear(2, 2))
    with pytest.raises(
        ValueError, match="two tasks of two queries are the least"
    ):
        check_learner(Course(), tasks.sample(1))


def test_a_broken_learner_is_told_apart_from_a_learner_with_another_loss(tasks):
    """The clause on foreign labels takes every loss that looks at labels."""

    class Own(Course):
        def loss(self, episode):
            query_targets(episode.support_y, episode.query_y)
            return torch.zeros(())

    check_learner(Own(), tasks.sample(2))
