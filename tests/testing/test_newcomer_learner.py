# SPDX-License-Identifier: MIT
"""A newcomer's own learner: at most forty lines, and it keeps the contract."""

import inspect

import torch
import torch.nn.functional as F
from torch import nn

import metabook as mb
from metabook.testing import check_learner, check_tasks

# --- what the newcomer writes ---


class WeightedFeatures(mb.Learner):
    """Means of the classes, in features weighed by how well they tell the
    classes of this task apart.
    """

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.sharpness = nn.Parameter(torch.tensor(1.0))

    def forward(self, support_x, support_y, query_x):
        classes, columns = mb.label_columns(support_y)
        member = F.one_hot(columns, classes.shape[1]).to(support_x.dtype)
        support_z, query_z = self.features(support_x), self.features(query_x)
        count = member.sum(dim=1)[:, :, None]  # (tasks, classes, 1)
        means = member.mT @ support_z / count
        within = (support_z - member @ means).square().mean(dim=1)
        between = (means - means.mean(dim=1, keepdim=True)).square().mean(dim=1)
        ratio = self.sharpness * (between / (within + between + 1e-6))
        weight = ratio.softmax(dim=1)[:, None, None]  # (tasks, 1, 1, features)
        apart = query_z[:, :, None] - means[:, None]
        return -(weight * apart.square()).sum(dim=-1)

    def features(self, x):
        return self.network(x.flatten(0, 1)).unflatten(0, x.shape[:2])


# --- what the package makes of it ---


def learner():
    torch.manual_seed(0)
    return WeightedFeatures(mb.Conv4(width=8))


def test_it_has_at_most_forty_lines():
    source = inspect.getsource(WeightedFeatures)
    assert len(source.splitlines()) <= 40


def test_it_keeps_the_contract():
    check_learner(learner())
    check_learner(learner().double())


def test_it_is_trained_and_measured_as_every_other(images):
    train, test = images.split(0.7, 0.3, seed=0)
    tasks = mb.FewShotTasks(train, way=5, shot=2, query=5, seed=0)
    exam = mb.FewShotTasks(test, way=5, shot=2, query=5, seed=1)
    check_tasks(tasks)
    own = learner()
    before = mb.evaluate(own, exam, episodes=100)
    mb.train(own, tasks, 60, 2, lr=3e-3, progress=False)
    after = mb.evaluate(own, exam, episodes=100)
    assert after.mean - before.mean > after.ci95 + before.ci95


def test_it_adapts_once_and_predicts_names(images):
    episode = mb.FewShotTasks(images, way=3, shot=4, query=2).sample(1)
    predictor = (
        learner()
        .eval()
        .adapt(
            episode.support_x, episode.support_y, class_names=["a", "b", "c"]
        )
    )
    (names,) = predictor.predict_names(episode.query_x)
    assert len(names) == 6
    assert set(names) <= {"a", "b", "c"}
