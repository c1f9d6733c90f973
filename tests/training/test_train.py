# SPDX-License-Identifier: MIT
"""The outer loop: what it does with tasks, optimisers, schedules and modes."""

import inspect
import itertools
import math
import signal
import types
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import small_conv
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset

import metabook as mb

WAVES = mb.Sinusoids(shot=5)


def fresh():
    torch.manual_seed(3)
    return mb.ProtoNet(nn.Sequential(small_conv(norm="batch"), nn.Dropout(0.2)))


def waver(width=8):
    torch.manual_seed(3)
    return mb.MAML(
        mb.MLP(1, 1, hidden=(width,)), inner_lr=0.01, loss_fn=F.mse_loss
    )


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def train(learner, tasks=WAVES, iterations=3, tasks_per_batch=2, **options):
    return mb.train(learner, tasks, iterations, tasks_per_batch, **options)


def test_only_the_first_four_arguments_go_without_a_name():
    with pytest.raises(TypeError):
        mb.train(waver(), WAVES, 1, 1, 0.1)


def test_no_test_data_can_enter_training():
    assert not any(
        "test" in name for name in inspect.signature(mb.train).parameters
    )


@pytest.mark.parametrize(
    "name",
    [
        "iterations",
        "tasks_per_batch",
        "valid_every",
        "valid_episodes",
        "checkpoint_every",
    ],
)
@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_numbers_out_of_range_are_refused_by_name(name, value):
    options = {"iterations": 2, "tasks_per_batch": 2, name: value}
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be"):
        mb.train(waver(), WAVES, **options)


# --- tasks ---


class Batches(Dataset):
    """Batches of episodes by their number, as a loader wants them."""

    def __init__(self, tasks, size, batches):
        self.tasks, self.size, self.batches = tasks, size, batches

    def __len__(self):
        return self.batches

    def __getitem__(self, i):
        return self.tasks.sample(self.size, i * self.size)


@pytest.mark.parametrize("kind", ["list", "generator", "loader", "workers"])
def test_any_iterable_of_episodes_is_taken_as_it_comes(tasks, kind):
    batches = [tasks.sample(2, start) for start in (0, 2, 4)]
    source = {
        "list": batches,
        "generator": (batch for batch in batches),
        "loader": DataLoader(Batches(tasks, 2, 3), batch_size=None),
        "workers": DataLoader(
            Batches(tasks, 2, 3), batch_size=None, num_workers=1
        ),
    }[kind]
    plain, other = fresh().eval(), fresh().eval()  # no dropout: see below
    for learner in (plain, other):
        learner.embedding[1].p = 0.0
    history = train(plain, tasks)
    assert train(other, source, tasks_per_batch=77).losses == history.losses
    assert same(plain, other)


def test_tasks_of_unequal_size_may_come_as_lists(images):
    tasks = mb.VariedTasks(images, way=(3, 5), shot=(1, 2), query=2)
    a, b = fresh(), fresh()
    torch.manual_seed(0)
    train(a, tasks)
    torch.manual_seed(0)
    train(b, [tasks.sample(2, start) for start in (0, 2, 4)])
    assert same(a, b)


def test_episodes_that_come_to_an_end_say_when_and_how_to_go_on():
    batches = [WAVES.sample(2), WAVES.sample(2, 2)]
    with pytest.raises(
        ValueError, match=r"after 2 iterations.*itertools\.cycle"
    ):
        train(waver(), batches, iterations=5)
    assert len(train(waver(), itertools.cycle(batches), 5).losses) == 5


def test_what_gives_no_episodes_is_refused():
    with pytest.raises(TypeError, match=r"a Episode; .*itertools\.repeat"):
        train(waver(), WAVES.sample(2))
    episode = WAVES.sample(2)
    assert len(train(waver(), itertools.repeat(episode)).losses) == 3
    with pytest.raises(ValueError, match="it must hold Episodes"):
        train(waver(), [torch.zeros(3)])


def test_what_cannot_go_on_in_the_middle_takes_no_checkpoint(tmp_path):
    batches = [WAVES.sample(2)] * 3
    with pytest.raises(ValueError, match=r"a list cannot go on in the middle"):
        train(waver(), batches, checkpoint=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- optimiser, schedule, clip ---


def test_the_users_own_optimizer_is_used(tasks):
    learner = fresh()
    before = [p.clone() for p in learner.parameters()]
    train(learner, tasks, optimizer=torch.optim.SGD(learner.parameters(), lr=0))
    for a, b in zip(before, learner.parameters(), strict=True):
        assert torch.equal(a, b)


def rates(schedule, iterations=4, lr=0.5):
    """The step sizes that the iterations are made with."""
    learner, seen = waver(), []
    optimizer = torch.optim.SGD(learner.parameters(), lr=lr)
    optimizer.register_step_pre_hook(
        lambda of, *_: seen.append(of.param_groups[0]["lr"])
    )
    if isinstance(schedule, types.FunctionType):
        schedule = schedule(optimizer)
    train(
        learner, iterations=iterations, optimizer=optimizer, schedule=schedule
    )
    return seen, optimizer.param_groups[0]["lr"]


def test_a_schedule_is_a_name_a_function_or_a_scheduler_of_torch():
    cosine = [0.5 * (0.5 + 0.5 * math.cos(math.pi * i / 4)) for i in range(4)]
    assert rates(None) == rates("constant") == ([0.5] * 4, 0.5)
    assert rates("cosine") == (pytest.approx(cosine), 0.5)
    linear = rates(lambda _: lambda done: 1 - done)
    assert linear == ([0.5, 0.375, 0.25, 0.125], 0.5)
    halves = rates(lambda sgd: lr_scheduler.StepLR(sgd, 2, gamma=0.5))
    assert halves == ([0.5, 0.5, 0.25, 0.25], 0.125), (
        "a scheduler of one's own keeps where it is"
    )


def test_schedules_that_cannot_be_followed_are_refused_with_a_way_out():
    with pytest.raises(ValueError, match=r"'linear'; choose .*'cosine'"):
        train(waver(), schedule="linear")
    with pytest.raises(ValueError, match=r"schedule\(0\.0\) is nan; it must"):
        train(waver(), schedule=lambda done: math.nan)
    learner = waver()
    sgd = torch.optim.SGD(learner.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="give both, optimizer=sgd"):
        train(learner, schedule=lr_scheduler.StepLR(sgd, 2))
    train(learner, optimizer=sgd, schedule=lr_scheduler.StepLR(sgd, 2))
    plateau = lr_scheduler.ReduceLROnPlateau(sgd)
    with pytest.raises(ValueError, match="ReduceLROnPlateau waits for"):
        train(learner, optimizer=sgd, schedule=plateau)


def test_clip_bounds_the_norm_of_the_gradient():
    def longest(clip):
        learner, norms = waver(), []
        optimizer = torch.optim.SGD(learner.parameters(), lr=0.0)
        optimizer.register_step_pre_hook(
            lambda *_: norms.append(
                torch.cat([p.grad.flatten() for p in learner.parameters()])
                .norm()
                .item()
            )
        )
        train(learner, optimizer=optimizer, clip=clip)
        return norms

    free = longest(None)
    assert min(free) > 0.02
    assert longest(0.01) == pytest.approx([0.01] * 3, rel=1e-3)
    assert longest(1e6) == free
    for wrong in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"clip is {wrong}"):
            train(waver(), clip=wrong)


def test_weights_that_the_optimiser_has_not_collect_no_gradient():
    learner = waver()
    first, *_, last = learner.parameters()
    train(learner, optimizer=torch.optim.SGD([last], lr=0.1), iterations=1)
    one = first.grad.norm()
    train(learner, optimizer=torch.optim.SGD([last], lr=0.0), iterations=4)
    assert first.grad.norm() < 2 * one


def test_a_method_may_warn_of_an_optimiser():
    class Careful(mb.MAML):
        def check_optimizer(self, optimizer):
            if isinstance(optimizer, torch.optim.Adam):
                warnings.warn("not the paper's update", stacklevel=2)

    def make():
        return Careful(mb.MLP(1, 1), loss_fn=F.mse_loss)

    with pytest.warns(UserWarning, match="not the paper's update") as seen:
        train(make())
    assert len(seen) == 1
    learner = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sgd = torch.optim.SGD(learner.parameters(), lr=0.1)
        train(learner, optimizer=sgd)


# --- what can be learned ---


class Detached(mb.ProtoNet):
    def score(self, support_z, support_y, query_z):
        return super().score(support_z, support_y, query_z).detach()


@pytest.mark.parametrize(
    "make",
    [
        lambda: mb.NearestNeighbour(),
        lambda: mb.FineTuning(small_conv(norm="batch"), steps=2),
        lambda: mb.FullFineTuning(small_conv(norm="batch"), steps=2),
        lambda: mb.ProtoNet(small_conv(norm="batch").requires_grad_(False)),
        lambda: Detached(small_conv(norm="batch")),
    ],
)
def test_what_learns_nothing_across_tasks_says_what_to_do_instead(tasks, make):
    learner = make()
    before = {k: v.clone() for k, v in learner.state_dict().items()}
    errors = (ValueError, NotImplementedError, RuntimeError)
    with pytest.raises(errors, match="across tasks.*evaluate it as it is"):
        train(learner, tasks)
    after = learner.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert mb.evaluate(learner, tasks, episodes=2).n == 2


def test_gradients_that_the_caller_has_switched_off_are_on_in_training():
    a, b = waver(), waver()
    with torch.no_grad():
        train(a)
    train(b)
    assert same(a, b)


def test_a_loss_that_is_not_finite_stops_with_the_state_of_the_iteration_before(
    tasks,
):
    class Poisoned:
        def sample(self, n, start=0):
            e = tasks.sample(n, start)
            x = e.support_x * (math.nan if start >= 4 else 1)
            return mb.Episode(x, e.support_y, e.query_x, e.query_y)

    good, learner = fresh(), fresh()
    torch.manual_seed(2)
    train(good, tasks, 2)
    torch.manual_seed(2)
    with pytest.raises(
        FloatingPointError, match="the loss is nan at iteration 3"
    ):
        train(learner, Poisoned(), 5)
    assert same(learner, good), "weights and running statistics"


# --- modes ---


def modes(learner, **options):
    """The modules that are in training mode in an iteration."""
    seen = []

    def note(*_):
        seen.append({n for n, m in learner.named_modules() if m.training})

    train(learner, on_iteration=note, **options)
    assert not any(m.training for m in learner.modules())
    return seen[-1]


def test_all_of_a_new_learner_trains(tasks):
    learner = fresh()
    names = {name for name, _ in learner.named_modules()}
    assert modes(learner, tasks=tasks) == names
    assert modes(learner, tasks=tasks) == names, "also again, after an eval()"


def test_a_frozen_batch_norm_stays_as_it_is(tasks):
    learner = fresh()
    frozen = [m for m in learner.modules() if isinstance(m, nn.BatchNorm2d)]
    for m in frozen:
        m.eval().requires_grad_(False)
    before = [m.running_mean.clone() for m in frozen]
    free = {n for n, m in learner.named_modules() if m not in frozen}
    for _ in range(2):  # the second time the whole learner is in eval()
        assert modes(learner, tasks=tasks) == free
        for m, mean in zip(frozen, before, strict=True):
            assert torch.equal(m.running_mean, mean)


def test_a_frozen_backbone_keeps_its_dropout_off(tasks):
    def make():
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.Dropout())
        backbone.eval().requires_grad_(False)
        return mb.ProtoNet(nn.Sequential(backbone, nn.Linear(8, 4)))

    for learner in (make(), make().eval()):
        assert modes(learner, tasks=tasks) == {"", "embedding", "embedding.1"}


# --- validation, callback, history ---


@pytest.mark.parametrize(
    ("kind", "better"), [("accuracy", max), ("error", min)]
)
def test_the_best_validation_is_kept_highest_for_accuracy_lowest_for_errors(
    tasks, kind, better
):
    learner, source, lr = (
        (waver(), WAVES, 0.3) if kind == "error" else (fresh(), tasks, 0.2)
    )  # far too large a step: the last weights are not the best
    history = train(
        learner, source, 12, lr=lr, valid=source, valid_episodes=10,
        valid_every=1,
    )  # fmt: skip
    means = [mean for _, mean, _ in history.validations]
    assert means[history.best_iteration - 1] == better(means)
    assert mb.evaluate(learner, source, episodes=10).mean == better(means)


def test_every_iteration_is_reported():
    learner, calls = waver(), []
    history = train(learner, on_iteration=lambda *args: calls.append(args))
    assert calls == [
        (i, loss, learner) for i, loss in enumerate(history.losses, 1)
    ]


def test_the_recipe_for_tensorboard_and_the_one_for_wandb():
    class SummaryWriter:
        scalars = ()

        def add_scalar(self, name, value, step):
            self.scalars += ((name, value, step),)

    writer, learner = SummaryWriter(), waver()

    def to_tensorboard(iteration, loss, learner):
        writer.add_scalar("loss", loss, iteration)

    history = train(learner, on_iteration=to_tensorboard)
    assert writer.scalars == tuple(
        ("loss", loss, i) for i, loss in enumerate(history.losses, 1)
    )

    logged = []
    wandb = types.SimpleNamespace(
        log=lambda values, step: logged.append((values, step))
    )

    def to_wandb(iteration, loss, learner):
        wandb.log({"loss": loss}, step=iteration)

    history = train(waver(), on_iteration=to_wandb)
    assert logged == [
        ({"loss": loss}, i) for i, loss in enumerate(history.losses, 1)
    ]


def test_a_history_is_short():
    history = train(
        waver(), iterations=50, valid=WAVES, valid_episodes=5, valid_every=10
    )
    assert len(repr(history)) < 100
    assert repr(mb.History([0.5] * 2000, seconds=61.2)) == (
        "History(2,000 iterations in 61 s, last loss 0.5)"
    )
    assert repr(mb.History()) == "History(0 iterations in 0 s)"


@pytest.mark.parametrize("at", [1, 2, 3])
def test_ctrl_c_in_any_iteration_is_heard_and_what_is_done_is_kept(at):
    learner, straight, losses = waver(), waver(), []

    def press(iteration, loss, learner):
        losses.append(loss)
        if iteration == at:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(learner, on_iteration=press)
    assert losses == train(straight, iterations=at).losses
    assert same(learner, straight)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_stops_at_once():
    learner = waver()
    original = learner.backward

    def press_twice(episode):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")
        return original(episode)

    learner.backward = press_twice
    with pytest.raises(KeyboardInterrupt):
        train(learner)


def test_the_same_seed_gives_the_same_bits(tasks):
    a, b = fresh(), fresh()
    for learner in (a, b):
        torch.manual_seed(1)
        train(learner, tasks)
    assert same(a, b)
    assert np.isfinite(train(a, tasks).losses).all()


def test_an_optimiser_of_another_model_is_refused_and_the_way_out_works():
    learner = mb.MAML(mb.MLP(1, 1), loss_fn=torch.nn.functional.mse_loss)
    other = torch.optim.SGD(mb.MLP(1, 1).parameters(), 0.1)
    options = {"iterations": 1, "tasks_per_batch": 2, "progress": False}
    with pytest.raises(ValueError, match=r"over learner\.parameters\(\)"):
        mb.train(learner, mb.Sinusoids(), optimizer=other, **options)
    own = torch.optim.SGD(learner.parameters(), 0.1)
    before = learner.model[1].weight.clone()
    mb.train(learner, mb.Sinusoids(), optimizer=own, **options)
    assert not torch.equal(learner.model[1].weight, before)
