# SPDX-License-Identifier: MIT
"""Prototypical networks: embed, average each class, take the nearest mean.

    c_k = mean of f(x) over the support examples x of class k
    p(k | x) = softmax over k of -|f(x) - c_k|^2

Snell, Swersky & Zemel, *Prototypical Networks for Few-shot Learning*, 2017, https://arxiv.org/abs/1703.05175.
Taught in sections 3.3, 4.2 and 5.2 of the book.
"""

import torch
from torch import Tensor, nn

from metabook.learner import Learner, check_batch, label_columns
from metabook.metric.distances import squared_euclidean

__all__ = ["ProtoNet", "compute_prototypes"]


def compute_prototypes(support_x: Tensor, support_y: Tensor) -> Tensor:
    """The mean of each class: the document's listing of section 5.2, mended.

    Parameters
    ----------
    support_x : Tensor, (S, D) or (T, S, D)
        Embedded support examples.
    support_y : Tensor of integers, (S,) or (T, S)
        Any labels; classes may have different numbers of examples.

    Returns
    -------
    Tensor, (classes, D) or (T, classes, D)
        Row j is the mean of the j-th smallest label.

    Raises
    ------
    ValueError
        If shapes do not agree or labels are not integers.

    Examples
    --------
    >>> compute_prototypes(torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([9, 9, 3]))
    tensor([[5.],
            [1.]])
    """
    if support_y.dim() == 1:
        return compute_prototypes(support_x[None], support_y[None])[0]
    if support_x.dim() != 3 or support_x.shape[:2] != support_y.shape:
        raise ValueError(
            f"support_x is {tuple(support_x.shape)} and support_y is {tuple(support_y.shape)}; expected (S, D) with "
            "(S,), or (T, S, D) with (T, S)"
        )
    classes, columns = label_columns(support_y)
    member = nn.functional.one_hot(columns, classes.shape[1]).to(support_x.dtype)  # (T, S, way)
    # sum_s member[s, k] x[s] / count[k], for every task in one matrix product
    return member.mT @ support_x / member.sum(dim=1)[:, :, None]


class ProtoNet(Learner):
    """Prototypical network: a class is the mean of its embedded support examples.

    Parameters
    ----------
    embedding : nn.Module
        Maps examples (B, ...) to features (B, D).

    References
    ----------
    Snell, Swersky & Zemel, 2017, https://arxiv.org/abs/1703.05175

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.ProtoNet(mb.Conv4())
    >>> x, y = torch.rand(2, 5, 1, 28, 28), torch.arange(5).repeat(2, 1)
    >>> learner(x, y, torch.rand(2, 7, 1, 28, 28)).shape
    torch.Size([2, 7, 5])
    """

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Negative squared distances to the prototypes, (T, Q, way): the logits of the softmax over classes."""
        check_batch(self, support_x, support_y, query_x)
        label_columns(support_y)  # labels are checked before the network runs
        z = self.embed(torch.cat([support_x, query_x], dim=1))  # one pass: (T, S + Q, D)
        support_z, query_z = z[:, : support_x.shape[1]], z[:, support_x.shape[1] :]
        return -squared_euclidean(query_z, compute_prototypes(support_z, support_y))

    def embed(self, x: Tensor) -> Tensor:
        """Embed examples (T, B, ...) as vectors (T, B, D); where batch statistics matter, each task on its own."""
        if self.transductive or self.training:
            z: Tensor = torch.stack([self.embedding(task) for task in x])
        else:
            z = self.embedding(x.flatten(0, 1))
            z = z.view(*x.shape[:2], *z.shape[1:])
        if z.dim() != 3:
            raise ValueError(
                f"the embedding returned {tuple(z.shape[2:])} for one example; a prototype is the mean of vectors: "
                "end the network with nn.Flatten()"
            )
        return z
