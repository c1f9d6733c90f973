# SPDX-License-Identifier: MIT
"""metabook: the package under *Learning to Learn*, an executable textbook on
meta-learning.
"""

from metabook import nas, testing
from metabook.data.dataset import from_dataset
from metabook.data.digits import digits
from metabook.data.folder import image_folder
from metabook.data.glyphs import glyphs
from metabook.data.images import LabelledImages
from metabook.data.omniglot import omniglot
from metabook.data.picture import load_image
from metabook.learner.embedding import EmbeddingLearner
from metabook.learner.labels import label_columns
from metabook.learner.protocol import Learner, Predictor
from metabook.learner.saving import load, save
from metabook.metric.baselines import (
    FineTuning,
    FullFineTuning,
    NearestCentroid,
    NearestNeighbour,
)
from metabook.metric.matching import MatchingNet
from metabook.metric.protonet import ProtoNet, compute_prototypes
from metabook.metric.relation import RelationNet
from metabook.models.conv4 import Conv4
from metabook.models.mlp import MLP
from metabook.models.norms import SupportNorm
from metabook.optimization.implicit import ImplicitMAML
from metabook.optimization.inner_loop import maml_update
from metabook.optimization.maml import MAML
from metabook.optimization.maml_plus_plus import MAMLPlusPlus
from metabook.optimization.relatives import ANIL, JointTraining, MetaSGD
from metabook.optimization.reptile import Reptile
from metabook.tasks.episode import Episode
from metabook.tasks.few_shot import FewShotTasks
from metabook.tasks.loading import episode_loader
from metabook.tasks.protocol import Tasks
from metabook.tasks.sinusoids import Sinusoids
from metabook.tasks.varied import VariedTasks
from metabook.training.embedded import evaluate_embedded
from metabook.training.evaluate import compare, evaluate, evaluate_steps
from metabook.training.history import History
from metabook.training.scores import Comparison, Score
from metabook.training.train import train

__version__ = "0.1.0.dev0"

__all__ = [
    "ANIL",
    "MAML",
    "MLP",
    "Comparison",
    "Conv4",
    "EmbeddingLearner",
    "Episode",
    "FewShotTasks",
    "FineTuning",
    "FullFineTuning",
    "History",
    "ImplicitMAML",
    "JointTraining",
    "LabelledImages",
    "Learner",
    "MAMLPlusPlus",
    "MatchingNet",
    "MetaSGD",
    "NearestCentroid",
    "NearestNeighbour",
    "Predictor",
    "ProtoNet",
    "RelationNet",
    "Reptile",
    "Score",
    "Sinusoids",
    "SupportNorm",
    "Tasks",
    "VariedTasks",
    "compare",
    "compute_prototypes",
    "digits",
    "episode_loader",
    "evaluate",
    "evaluate_embedded",
    "evaluate_steps",
    "from_dataset",
    "glyphs",
    "image_folder",
    "label_columns",
    "load",
    "load_image",
    "maml_update",
    "nas",
    "omniglot",
    "save",
    "testing",
    "train",
]
