# SPDX-License-Identifier: MIT
"""One file holds a learner, or what it learned, and gives the same answers."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import small_conv
from learners import BASELINES, LEARNERS
from torch import nn

import metabook as mb

EVERY = LEARNERS | BASELINES


def networks_of_ones_own(learner):
    """Those arguments that a file does not hold, made anew."""
    argument = "model" if hasattr(learner, "model") else "embedding"
    network = getattr(learner, argument)
    if type(network).__module__.startswith("metabook."):
        return {}
    if not network.state_dict():  # nn.Flatten()
        return {}
    other = EVERY[next(n for n in EVERY if n == learner.name)]()
    return {argument: getattr(other, argument)}


@pytest.mark.parametrize("name", EVERY)
def test_a_loaded_learner_gives_the_same_answers(name, tasks, tmp_path):
    learner = EVERY[name]().eval()
    learner.name = name
    with torch.no_grad():  # not the weights that a constructor would draw
        for p in learner.parameters():
            p.add_(0.01 * torch.randn_like(p))
    e = tasks.sample(2)
    own = networks_of_ones_own(learner)
    mb.save(learner, tmp_path / "learner.pt")
    torch.manual_seed(7)
    loaded = mb.load(tmp_path / "learner.pt", **own)
    assert type(loaded) is type(learner)
    assert not loaded.training
    parts = e.support_x, e.support_y, e.query_x
    with torch.no_grad():
        # side by side or in turn is not saved, and rounds differently
        assert torch.allclose(loaded(*parts), learner(*parts), atol=1e-5)
        predictor = learner.adapt(*parts[:2], class_names=[*"abcde"])
        mb.save(predictor, tmp_path / "predictor.pt")
        own = networks_of_ones_own(learner)
        again = mb.load(tmp_path / "predictor.pt", **own)
        answers = again(e.query_x), predictor(e.query_x)
        assert torch.allclose(*answers, atol=1e-5)
    assert again.class_names == predictor.class_names
    assert type(again) is type(predictor)


@pytest.mark.parametrize(
    "change",
    [
        {"inner_lr": 0.3},
        {"inner_steps": 3},
        {"first_order": True},
        {"query_dtype": torch.bfloat16},
        {"loss_fn": F.mse_loss},
    ],
)
def test_every_setting_comes_back(change, tmp_path):
    (name, value) = next(iter(change.items()))
    learner = mb.MAML(small_conv(out=5), **change)
    mb.save(learner, tmp_path / "x.pt")
    assert getattr(mb.load(tmp_path / "x.pt"), name) == value
    assert getattr(mb.MAML(small_conv(out=5)), name) != value


def test_settings_are_those_at_the_time_of_saving(tmp_path):
    learner = mb.MAML(small_conv(out=5), inner_lr=0.1)
    learner.inner_lr = 0.7
    mb.save(learner, tmp_path / "x.pt")
    assert mb.load(tmp_path / "x.pt").inner_lr == 0.7


def test_precision_and_frozen_weights_come_back(tmp_path):
    learner = mb.ProtoNet(small_conv(norm="batch")).double()
    learner.embedding.features[0].weight.requires_grad_(False)
    mb.save(learner, tmp_path / "x.pt")
    loaded = mb.load(tmp_path / "x.pt")
    assert {p.dtype for p in loaded.parameters()} == {torch.float64}
    frozen = [n for n, p in loaded.named_parameters() if not p.requires_grad]
    assert frozen == ["embedding.features.0.weight"]


def own_loss(predictions, targets):
    return F.cross_entropy(predictions, targets, label_smoothing=0.1)


def own_net():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 5))


def test_what_is_ones_own_is_named_and_the_way_out_works(tmp_path):
    learner = mb.MAML(own_net(), 0.1, loss_fn=own_loss)
    file = tmp_path / "x.pt"
    mb.save(learner, file)
    with pytest.raises(
        ValueError,
        match=r"model \(a Sequential\) and loss_fn \(a own_loss\).*"
        r"model=\.\.\., loss_fn=\.\.\.",
    ):
        mb.load(file)
    loaded = mb.load(file, model=own_net(), loss_fn=own_loss)
    assert loaded.loss_fn is own_loss
    for p, q in zip(loaded.parameters(), learner.parameters(), strict=True):
        assert torch.equal(p, q)
    with pytest.raises(ValueError, match="no argument 'net'; it has model"):
        mb.load(file, model=own_net(), loss_fn=own_loss, net=own_net())
    with pytest.raises(ValueError, match="do not fit this network"):
        mb.load(file, model=nn.Linear(784, 5), loss_fn=own_loss)


class OwnLearner(mb.EmbeddingLearner):
    """A user's own class, which keeps its argument."""

    def __init__(self, embedding, sharpness=1.0):
        super().__init__(embedding)
        self.sharpness = sharpness

    def score(self, support_z, support_y, query_z):
        prototypes = mb.compute_prototypes(support_z, support_y)
        return -self.sharpness * torch.cdist(query_z, prototypes)


class Forgetful(OwnLearner):
    """And one that does not."""

    def __init__(self, embedding, blur=1.0):
        super().__init__(embedding, 1 / blur)


def test_a_learner_of_ones_own_class_is_found_once_it_is_imported(tmp_path):
    mb.save(OwnLearner(small_conv(norm="batch"), 3.0), tmp_path / "x.pt")
    assert mb.load(tmp_path / "x.pt").sharpness == 3.0
    code = "import sys, metabook as mb; mb.load(sys.argv[1])"
    command = [sys.executable, "-c", code, str(tmp_path / "x.pt")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert "import that module, before loading" in run.stderr


def test_an_argument_that_is_not_kept_is_named_before_anything_is_lost(
    tmp_path,
):
    learner, file = Forgetful(small_conv(norm="batch")), tmp_path / "x.pt"
    with pytest.raises(ValueError, match=r"'blur' is not kept.*self.blur"):
        mb.save(learner, file)
    assert not file.exists()
    learner.blur = 1.0  # the way out
    mb.save(learner, file)
    assert isinstance(mb.load(file), Forgetful)


@pytest.mark.parametrize("content", [b"", b"no file of torch", None])
def test_another_file_is_not_taken_for_a_learner(content, tmp_path):
    file = tmp_path / "x.pt"
    if content is None:
        torch.save(small_conv().state_dict(), file)
    else:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pt"):
        mb.load(file)
    with pytest.raises(FileNotFoundError):
        mb.load(tmp_path / "nothing.pt")


def test_no_code_of_a_file_is_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"kind": "metabook learner", "x": Evil()}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt"):
        mb.load(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "asked",
    ["metabook.cli:os.system", "metabook.data.files:os", "os:system"],
)
@pytest.mark.parametrize("where", ["class", "function", "module"])
def test_a_file_cannot_name_what_is_no_learner_network_or_function(
    asked, where, tmp_path
):
    gone = tmp_path / "gone"
    call = {"command": {"value": f"touch {gone}"}}
    asks = {"class": asked, "arguments": call}
    learner = {
        "class": asks,
        "function": {
            "class": "metabook.optimization.maml:MAML",
            "arguments": {"loss_fn": {"function": asked}},
        },
        "module": {
            "class": "metabook.optimization.maml:MAML",
            "arguments": {"model": {"module": asks}},
        },
    }[where]
    content = {"format": 1, "kind": "metabook learner", "learner": learner}
    torch.save(content | {"weights": {}, "frozen": []}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"the file (asks for|holds a)"):
        mb.load(tmp_path / "x.pt")
    assert not gone.exists()


@pytest.mark.parametrize(
    "loss_fn",
    [
        torch.nn.CrossEntropyLoss(label_smoothing=0.3),
        torch.nn.CrossEntropyLoss(reduction="sum"),
        torch.nn.CrossEntropyLoss(ignore_index=0),
    ],
)
def test_a_loss_with_options_is_ones_own(loss_fn, tmp_path):
    mb.save(mb.MAML(mb.MLP(784, 5), loss_fn=loss_fn), tmp_path / "x.pt")
    with pytest.raises(ValueError, match="loss_fn=..."):
        mb.load(tmp_path / "x.pt")
    assert mb.load(tmp_path / "x.pt", loss_fn=loss_fn).loss_fn is loss_fn
    plain = mb.MAML(mb.MLP(784, 5), loss_fn=torch.nn.CrossEntropyLoss())
    mb.save(plain, tmp_path / "x.pt")
    mb.load(tmp_path / "x.pt")


def changed():
    net = mb.Conv4(width=4)
    net.features[2] = nn.Identity()
    return net


def frozen():
    net = mb.Conv4(width=4)
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("make", [changed, frozen])
def test_a_network_that_was_changed_is_ones_own(make, tmp_path, tasks):
    learner = mb.ProtoNet(make()).eval()
    mb.save(learner, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="embedding=..."):
        mb.load(tmp_path / "x.pt")
    again = mb.load(tmp_path / "x.pt", embedding=make())
    e = tasks.sample(1)
    parts = e.support_x, e.support_y, e.query_x
    assert torch.equal(again(*parts), learner(*parts))


def test_numbers_of_numpy_are_numbers(tmp_path):
    learner = mb.MAML(
        mb.MLP(784, 5, hidden=np.array([6])), inner_lr=np.float64(0.1)
    )
    mb.save(learner, tmp_path / "x.pt")
    assert mb.load(tmp_path / "x.pt").inner_lr == 0.1
