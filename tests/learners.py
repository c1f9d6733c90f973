# SPDX-License-Identifier: MIT
"""Every learner of the package, small. A new method joins by one line in
LEARNERS.
"""

import torch
from conftest import small_conv
from torch import nn

import metabook as mb


class Recurrent(nn.Module):
    """Reads an image line by line."""

    def __init__(self, out):
        super().__init__()
        self.lstm = nn.LSTM(28, 6, batch_first=True)
        self.head = nn.Linear(6, out)

    def forward(self, x):
        return self.head(self.lstm(x[:, 0])[0][:, -1])


class Attentive(nn.Module):
    """Attends from line to line."""

    def __init__(self, out):
        super().__init__()
        self.attention = nn.MultiheadAttention(28, 2, batch_first=True)
        self.head = nn.Linear(28, out)

    def forward(self, x):
        lines = x[:, 0]
        return self.head(
            self.attention(lines, lines, lines, need_weights=False)[0].mean(
                dim=1
            )
        )


class Transformer(nn.Module):
    """Reads an image as a sentence of 28 words."""

    def __init__(self, out):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            8, 2, dim_feedforward=16, dropout=0.1, batch_first=True
        )
        self.words, self.head = nn.Linear(28, 8), nn.Linear(8, out)
        self.encoder = nn.TransformerEncoder(
            layer, 1, enable_nested_tensor=False
        )

    def forward(self, x):
        return self.head(self.encoder(self.words(x[:, 0])).mean(dim=1))


class Tied(nn.Module):
    """Two layers with the same weights, which have two names."""

    def __init__(self, out):
        super().__init__()
        self.first, self.head = nn.Linear(784, 6), nn.Linear(6, out)
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
        self.two.weight = self.one.weight

    def forward(self, x):
        x = self.first(x.flatten(1)).tanh()
        return self.head(self.two(self.one(x).tanh()).tanh())


def frozen(backbone, out, features=4):
    """A pretrained network that stays as it is, with a head that learns."""
    for p in backbone.eval().parameters():
        p.requires_grad_(False)
    return nn.Sequential(backbone, nn.Linear(features, out))


# what people bring along, with so many outputs
NETWORKS = {
    "frozen backbone": lambda out: frozen(small_conv(norm="group"), out),
    "frozen batch norm": lambda out: frozen(small_conv(norm="batch"), out),
    "LSTM": Recurrent,
    "transformer": Transformer,
    "tied weights": Tied,
    "double before it was wrapped": lambda out: mb.MLP(
        784, out, hidden=(6,)
    ).double(),
}

# every learner, of a network with five outputs
OF_A_NETWORK = {
    "protonet": mb.ProtoNet,
    "protonet, learned temperature": lambda net: mb.ProtoNet(
        net, temperature=2.0, learn_temperature=True
    ),
    "matching": mb.MatchingNet,
    "relation": lambda net: mb.RelationNet(net, features=5, width=8),
    "nearest neighbour": mb.NearestNeighbour,
    "nearest centroid": mb.NearestCentroid,
    "fine-tuning, linear": lambda net: mb.FineTuning(net, steps=3),
    "fine-tuning, cosine": lambda net: mb.FineTuning(
        net, head="cosine", steps=3
    ),
    "full fine-tuning": lambda net: mb.FullFineTuning(net, steps=2),
    "maml": lambda net: mb.MAML(net, inner_lr=0.1),
    "maml, first order": lambda net: mb.MAML(
        net, inner_lr=0.1, first_order=True
    ),
    "maml, vectorized": lambda net: mb.MAML(net, inner_lr=0.1, vectorized=True),
    "maml++": lambda net: mb.MAMLPlusPlus(
        net, inner_steps=2, multi_step_until=10, first_order_until=5
    ),
    "anil": lambda net: mb.ANIL(net, inner_lr=0.1),
    "meta-sgd": lambda net: mb.MetaSGD(net, inner_lr=0.1),
    "implicit maml": lambda net: mb.ImplicitMAML(
        net, inner_lr=0.1, inner_steps=3
    ),
    "joint training": lambda net: mb.JointTraining(net, inner_lr=0.1),
    "reptile": lambda net: mb.Reptile(net, inner_lr=0.1, inner_steps=3),
}


LEARNERS = {
    "protonet": lambda: mb.ProtoNet(small_conv(norm="batch")),
    "protonet, batch statistics": lambda: mb.ProtoNet(small_conv()),
    "maml": lambda: mb.MAML(small_conv(out=5), inner_lr=0.1),
    "maml, strided": lambda: mb.MAML(
        small_conv(out=5, strided=True), inner_lr=0.1, inner_steps=2
    ),
    "maml, group norm": lambda: mb.MAML(
        small_conv(out=5, norm="group"), inner_lr=0.1
    ),
    "maml, dropout": lambda: mb.MAML(
        nn.Sequential(mb.MLP(784, 8), nn.Dropout(0.3), nn.Linear(8, 5)),
        inner_lr=0.1,
    ),
    "maml, LSTM": lambda: mb.MAML(Recurrent(5), inner_lr=0.1),
    "maml, attention": lambda: mb.MAML(Attentive(5), inner_lr=0.1),
    "protonet, euclidean": lambda: mb.ProtoNet(
        small_conv(norm="batch"), distance="euclidean"
    ),
    "protonet, cosine": lambda: mb.ProtoNet(
        small_conv(norm="batch"),
        distance="cosine",
        temperature=0.1,
        learn_temperature=True,
    ),
    "protonet, half precision in training": lambda: mb.ProtoNet(
        small_conv(norm="batch"), embedding_dtype=torch.bfloat16
    ),
    "matching": lambda: mb.MatchingNet(small_conv(norm="batch")),
    "relation": lambda: mb.RelationNet(
        small_conv(norm="batch"), features=4, width=8
    ),
    "protonet, LSTM": lambda: mb.ProtoNet(Recurrent(6)),
    "maml, vectorized": lambda: mb.MAML(
        small_conv(out=5), inner_lr=0.1, vectorized=True
    ),
    "maml, perceptron": lambda: mb.MAML(
        mb.MLP(784, 5, hidden=(6,)), inner_lr=0.1, inner_steps=2
    ),
    "maml, support statistics": lambda: mb.MAML(
        small_conv(out=5, norm="support"), inner_lr=0.1
    ),
    "maml, support statistics, vectorized": lambda: mb.MAML(
        small_conv(out=5, norm="support"), inner_lr=0.1, vectorized=True
    ),
    "maml++": lambda: mb.MAMLPlusPlus(
        small_conv(out=5),
        inner_steps=2,
        multi_step_until=10,
        first_order_until=5,
    ),
    "implicit maml": lambda: mb.ImplicitMAML(
        small_conv(out=5), inner_lr=0.1, inner_steps=3
    ),
    "joint training": lambda: mb.JointTraining(small_conv(out=5), inner_lr=0.1),
    "anil": lambda: mb.ANIL(small_conv(out=5), inner_lr=0.1),
    "meta-sgd": lambda: mb.MetaSGD(small_conv(out=5), inner_lr=0.1),
    "reptile": lambda: mb.Reptile(
        small_conv(out=5), inner_lr=0.1, inner_steps=3
    ),
    "maml, first order": lambda: mb.MAML(
        small_conv(out=5, norm="none"), inner_lr=0.1, first_order=True
    ),
}


# nothing of these is meta-learned
BASELINES = {
    "nearest neighbour": lambda: mb.NearestNeighbour(),
    "nearest centroid": lambda: mb.NearestCentroid(
        small_conv(norm="batch"), center=torch.ones(4)
    ),
    "fine-tuning, linear": lambda: mb.FineTuning(
        small_conv(norm="batch"), steps=5
    ),
    "fine-tuning, cosine": lambda: mb.FineTuning(
        small_conv(norm="batch"), head="cosine", steps=5
    ),
    "full fine-tuning": lambda: mb.FullFineTuning(
        small_conv(norm="batch"), steps=3
    ),
}
