# SPDX-License-Identifier: MIT
"""Several processes train as one does."""

import os
import subprocess
import sys
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from conftest import small_conv
from processes import Child
from torch import nn

import metabook as mb
from metabook.training.distributed import Processes

ROOT = Path(__file__).resolve().parents[2]
WAVES = mb.Sinusoids(shot=5, query=5)


class Doubles:
    """Tasks in double precision."""

    def __init__(self, tasks):
        self.tasks = tasks

    def sample(self, tasks, start=0):
        sample = self.tasks.sample(tasks, start)
        if isinstance(sample, mb.Episode):
            return sample.to(torch.float64)
        return [episode.to(torch.float64) for episode in sample]

    def settings(self):
        return {}


def together(function, folder, size=2):
    """What ``function(rank)`` returns in each of so many processes."""

    def work(rank):
        def run(say):
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
            dist.init_process_group(
                "gloo",
                init_method=f"file://{folder}/meeting",
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=60),
            )
            torch.save(function(rank), folder / f"{rank}.pt")
            dist.destroy_process_group()

        return run

    folder.mkdir(exist_ok=True)
    (folder / "meeting").unlink(missing_ok=True)
    with ExitStack() as stack:
        children = [stack.enter_context(Child(work(r))) for r in range(size)]
        said = [child.rest() for child in children]
    assert said == [["done"]] * size, "\n".join(map("\n".join, said))
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]


def perceptron(out=1):
    return mb.MLP(1, out, hidden=(6,))


def maml(cls=mb.MAML, **options):
    return cls(perceptron(), inner_lr=0.05, loss_fn=F.mse_loss, **options)


def of_pictures(**options):
    return mb.FewShotTasks(
        mb.glyphs(classes=12, seed=0), way=3, shot=1, query=2, **options
    )


def varied():
    return mb.VariedTasks(
        mb.glyphs(classes=12, seed=0), way=(2, 4), shot=(1, 3), query=2
    )


# name -> learner, tasks
CASES = {
    "maml": (maml, lambda: Doubles(WAVES)),
    "maml++": (
        lambda: maml(
            mb.MAMLPlusPlus,
            inner_steps=2,
            multi_step_until=3,
            first_order_until=2,
        ),
        lambda: Doubles(WAVES),
    ),
    "reptile": (
        lambda: maml(mb.Reptile, inner_steps=2),
        lambda: Doubles(WAVES),
    ),
    "meta-sgd": (lambda: maml(mb.MetaSGD), lambda: Doubles(WAVES)),
    "batch statistics": (
        lambda: mb.MAML(small_conv(out=3), inner_lr=0.1),
        lambda: Doubles(of_pictures()),
    ),
    "running statistics": (
        lambda: mb.ProtoNet(small_conv(norm="batch")),
        lambda: Doubles(of_pictures()),
    ),
    "tasks of unequal shape": (
        lambda: mb.ProtoNet(small_conv(norm="batch")),
        lambda: Doubles(varied()),
    ),
    "a loader": (maml, lambda: mb.episode_loader(Doubles(WAVES), 5, start=3)),
    "an iterable": (
        maml,
        lambda: [Doubles(WAVES).sample(n) for n in (5, 2, 4, 3)],
    ),
}


def trained(learner, tasks, **options):
    torch.manual_seed(0)
    learner = learner().double()
    options = {"iterations": 4, "tasks_per_batch": 5} | options
    optimizer = torch.optim.SGD(learner.parameters(), 1e-3, momentum=0.9)
    history = mb.train(learner, tasks(), optimizer=optimizer, **options)
    return learner.state_dict(), history.losses, history.validations


def difference(one, other):
    """Of weights, the largest."""
    return max(float((one[n] - w).abs().max()) for n, w in other.items())


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_weights_of_one(name, tmp_path):
    whole, losses, _ = trained(*CASES[name])
    weights = {n: w for n, w in whole.items() if "running" not in n}
    weights = {n: w for n, w in weights.items() if "num_batches" not in n}
    first, second = together(lambda rank: trained(*CASES[name]), tmp_path)
    assert difference(first[0], weights) < 1e-10
    assert difference(first[0], second[0]) == 0, "also statistics"
    assert first[1] == second[1] == pytest.approx(losses, abs=1e-10)


def test_three_processes_with_adam_clipping_and_validation(tmp_path):
    def work(rank=0):
        torch.manual_seed(0 if rank == 0 else 7)  # the first one's weights
        learner = maml().double()
        history = mb.train(
            learner,
            Doubles(WAVES),
            iterations=6,
            tasks_per_batch=7,
            schedule="cosine",
            clip=0.5,
            valid=WAVES,
            valid_episodes=3,
            valid_every=2,
        )
        return (
            learner.state_dict(),
            history.validations,
            history.best_iteration,
        )

    whole = work()
    parts = together(work, tmp_path, size=3)
    for weights, validations, best in parts:
        assert difference(weights, whole[0]) < 1e-10
        assert [i for i, *_ in validations] == [2, 4, 6]
        assert best == whole[2]
        for found, expected in zip(validations, whole[1], strict=True):
            assert found == pytest.approx(expected, abs=1e-10)


def test_running_statistics_move_by_the_mean_and_constants_do_not_move(
    tmp_path,
):
    """Two tasks, one on each process: the statistics are the mean of those
    that each task alone would leave."""

    def make():
        torch.manual_seed(0)
        learner = mb.ProtoNet(small_conv(norm="batch")).double()
        learner.register_buffer("third", torch.tensor(1 / 3))
        learner.register_buffer("number", torch.tensor(5))
        return learner

    def alone(task):
        learner, tasks = make(), Doubles(of_pictures())
        mb.train(learner, [tasks.sample(1, task)], iterations=1)
        return learner.state_dict()

    def work(rank):
        learner = make()
        mb.train(learner, Doubles(of_pictures()), 1, tasks_per_batch=2)
        return learner.state_dict()

    found, _ = together(work, tmp_path)
    tasks = alone(0), alone(1)
    for name in (n for n in found if "running" in n):
        mean = (tasks[0][name] + tasks[1][name]) / 2
        assert (found[name] - mean).abs().max() < 1e-12
        assert (found[name] - tasks[0][name]).abs().max() > 1e-6
    assert torch.equal(found["third"], make().third)
    assert torch.equal(found["number"], make().number)


class Half(nn.Module):
    """A head that only tasks with large inputs use."""

    def __init__(self):
        super().__init__()
        self.always, self.never = nn.Linear(1, 1), nn.Linear(1, 1)

    def forward(self, x):
        return self.always(x)


def test_a_weight_that_nobody_uses_stays_as_it_is(tmp_path):
    class Regression(mb.Learner):
        def __init__(self):
            super().__init__(F.mse_loss)
            self.net = Half()

        def forward(self, support_x, support_y, query_x):
            return self.net(query_x)

    def work(rank):
        torch.manual_seed(0)
        learner = Regression()
        before = learner.net.never.weight.clone()
        optimizer = torch.optim.AdamW(learner.parameters(), 0.1)
        mb.train(learner, WAVES, 2, tasks_per_batch=2, optimizer=optimizer)
        return torch.equal(before, learner.net.never.weight)

    assert together(work, tmp_path) == [True, True]


def with_dropout(iterations, checkpoint=None, every=100):
    torch.manual_seed(0)
    net = nn.Sequential(mb.MLP(1, 8), nn.Dropout(0.3), mb.MLP(8, 1))
    learner = mb.MAML(net, inner_lr=0.01, loss_fn=F.mse_loss)
    history = mb.train(
        learner,
        WAVES,
        iterations,
        tasks_per_batch=3,
        checkpoint=checkpoint,
        checkpoint_every=every,
    )
    return learner.state_dict(), history.losses, torch.get_rng_state()


def test_what_was_shared_resumes_with_the_same_bits(tmp_path):
    whole, again = together(lambda rank: with_dropout(6), tmp_path / "a")
    assert torch.equal(whole[2], again[2]), "one random state"
    run = tmp_path / "run"

    def parted(rank):
        with_dropout(3, run)
        return with_dropout(6, run)

    for part in together(parted, tmp_path / "b"):
        assert difference(part[0], whole[0]) == 0
        assert part[1] == whole[1]
    assert (run / "log.jsonl").read_text().count("\n") == 6
    assert len(with_dropout(7, run)[1]) == 7, "one process may go on with it"


def test_random_numbers_differ_between_processes(tmp_path):
    def work(rank):
        torch.manual_seed(0)
        with Processes(rank, 2).own_random(torch.device("cpu")):
            own = float(torch.rand(()))
        return own, float(torch.rand(()))

    first, second = together(work, tmp_path)
    assert first[0] != second[0]
    assert first[1] == second[1]


def test_what_goes_wrong_in_the_first_is_told_to_all(tmp_path):
    with_dropout(2, tmp_path / "run")

    def work(rank):
        with pytest.raises((ValueError, RuntimeError)) as error:
            mb.train(maml(), WAVES, 4, 3, checkpoint=tmp_path / "run")
        return str(error.value)

    first, second = together(work, tmp_path / "a")
    assert "holds a training with other settings" in first
    assert "first process has stopped: ValueError" in second
    assert "holds a training with other settings" in second


def test_a_gradient_that_is_not_finite_stops_all(tmp_path):
    class Broken(Doubles):
        def sample(self, tasks, start=0):
            episode = super().sample(tasks, start)
            if start % 4 == 2:  # the second half of a batch
                episode.query_y[:] = float("nan")
            return episode

    def work(rank):
        with pytest.raises(FloatingPointError, match="at iteration 1"):
            mb.train(maml().double(), Broken(WAVES), 2, tasks_per_batch=4)
        return True

    assert together(work, tmp_path) == [True, True]


def test_fewer_tasks_than_processes_are_refused(tmp_path):
    def work(rank):
        with pytest.raises(ValueError, match="2 processes share a batch of 1"):
            mb.train(maml(), WAVES, 1, tasks_per_batch=1)
        return len(mb.train(maml(), WAVES, 1, tasks_per_batch=2).losses)

    assert together(work, tmp_path) == [1, 1]


# --- torchrun ---

SCRIPT = """
import os, signal, sys
import torch
import torch.nn.functional as F
import metabook as mb

folder, fails = sys.argv[1], int(sys.argv[2])
rank = int(os.environ["RANK"])
attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))

def die(iteration, loss, learner):
    if rank == 1 and iteration == 7 and attempt < fails:
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
torch.manual_seed(0)
learner = mb.MAML(mb.MLP(1, 1, hidden=(6,)), inner_lr=0.05, loss_fn=F.mse_loss)
mb.train(
    learner, mb.Sinusoids(shot=5, query=5), 12, 5, on_iteration=die,
    checkpoint=folder + "/run", checkpoint_every=3, progress=False,
)
torch.save(learner.state_dict(), f"{folder}/{attempt}_{rank}.pt")
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path / "script.py"


def environment(**more):
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        **more,
    }


def test_torchrun_goes_on_from_the_checkpoint_after_a_kill(script, tmp_path):
    run = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--nproc-per-node=2", "--max-restarts=1"),
            *("--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"),
            *("--local-addr=127.0.0.1", script, tmp_path, "1"),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    torch.manual_seed(0)
    whole = maml()
    mb.train(whole, WAVES, 12, 5)
    for rank in range(2):
        weights = torch.load(tmp_path / f"1_{rank}.pt")
        assert difference(weights, whole.state_dict()) < 1e-5, "in float32"
    assert not (tmp_path / "0_0.pt").exists(), "the first attempt was killed"


def test_the_death_of_one_ends_the_others_with_a_clear_error(script, tmp_path):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True)
    runs = [
        subprocess.Popen(
            [sys.executable, script, tmp_path, "1"],
            env=environment(
                RANK=str(rank),
                WORLD_SIZE="2",
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(store.port),
                TORCHELASTIC_USE_AGENT_STORE="True",
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [run.communicate(timeout=400)[1] for run in runs]
    finally:
        for run in runs:
            run.kill()
    assert runs[1].returncode == -9
    assert runs[0].returncode == 1
    assert "process 0 of 2 could not exchange its gradients" in said[0]
    assert "goes on from the checkpoint" in said[0]
    assert len(torch.load(tmp_path / "run" / "last.pt")["state"]["losses"]) == 6
