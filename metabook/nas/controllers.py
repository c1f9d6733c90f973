# SPDX-License-Identifier: MIT
"""Controllers: distributions over architectures, one choice after another, for
`metabook.nas.Reinforce` to move.

    p(a) = product over d of p(a_d | a_1 ... a_{d-1})

A recurrent network, as in Zoph & Le, 2017, https://arxiv.org/abs/1611.01578; or
one softmax for each decision, which cannot make one choice depend on another.
Taught in section 3.2 of the book.
"""

import math
from abc import ABC, abstractmethod
from random import Random
from typing import TypeAlias

import torch
from torch import Tensor, nn

from metabook.nas.space import Architecture, Choice, SearchSpace

__all__ = ["Controller", "IndependentController", "LSTMController"]

# what a recurrent controller remembers of the choices before
_State: TypeAlias = tuple[Tensor, Tensor] | None


class Controller(nn.Module, ABC):
    """A distribution over the architectures of a space; those that the
    constraint forbids have probability 0.

    In float64: machines round differently, and this keeps the difference from
    changing a draw.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        self.index = [
            {choice: i for i, choice in enumerate(row)} for row in space.choices
        ]
        self.most = max(map(len, space.choices))
        sizes = torch.tensor([len(row) for row in space.choices])
        # (decisions, most choices): True where there is none
        self.padding = torch.arange(self.most) >= sizes[:, None]

    @abstractmethod
    def forward(
        self, prefix: Architecture, start: int = 0, state: _State = None
    ) -> tuple[Tensor, _State]:
        """Scores of the choices of decisions ``start`` to ``len(prefix)``, each
        given the choices before it.

        Parameters
        ----------
        prefix : tuple of choices, at most all but the last
        start : int
        state : what `forward` returned for the decisions before ``start``

        Returns
        -------
        logits : Tensor, (len(prefix) + 1 - start, most choices)
        state
        """

    def log_p(
        self, prefix: Architecture, start: int = 0, state: _State = None
    ) -> tuple[Tensor, _State]:
        """Like `forward`, but ``log p(choice | the choices before)``: minus
        infinity for what must not be chosen.
        """
        logits, state = self(prefix, start, state)
        forbidden = self.padding[start : len(prefix) + 1]
        if self.space.constraint is not None:
            forbidden = forbidden.clone()
            for row, d in enumerate(range(start, len(prefix) + 1)):
                allowed = self.space.allowed(prefix[:d])
                for choice, i in self.index[d].items():
                    forbidden[row, i] = choice not in allowed
        logits = logits.masked_fill(forbidden, -torch.inf)
        return logits.log_softmax(dim=-1), state

    @torch.no_grad()
    def draw(self, rng: Random) -> Architecture:
        """Draw the choices one after another."""
        arch: Architecture = ()
        state = None
        for d, row in enumerate(self.space.choices):
            log_p, state = self.log_p(arch, d, state)
            arch += tuple(rng.choices(row, log_p[0].exp().tolist()[: len(row)]))
        return arch

    def columns(self, arch: Architecture) -> Tensor:
        """The number of each choice in its decision, (decisions, 1)."""
        pairs = zip(self.index, arch, strict=True)
        return torch.tensor([[index[choice]] for index, choice in pairs])

    def backward(
        self, arch: Architecture, advantage: float, entropy: float
    ) -> None:
        """Set ``.grad`` to ``advantage * grad log p(arch)`` plus ``entropy *
        grad sum_d H(a_d | a_1 ... a_{d-1})``.
        """
        self.zero_grad()
        log_p, _ = self.log_p(arch[:-1])
        # 0 log 0 = 0
        p_log_p = log_p.exp() * log_p.masked_fill(log_p.isinf(), 0.0)
        chosen = log_p.gather(1, self.columns(arch)).sum()
        gain = advantage * chosen - entropy * p_log_p.sum()
        gain.backward()  # type: ignore[no-untyped-call]


class LSTMController(Controller):
    """Reads its choices one after another, each drawn given all before it.

    After Zoph & Le.

    Parameters
    ----------
    space : SearchSpace
    hidden : int
        Width of the two layers.
    seed : int
        Of the initial weights, uniform in ±0.08. The last layer begins at zero,
        so that all choices begin equally likely.
    """

    def __init__(
        self, space: SearchSpace, *, hidden: int = 35, seed: int = 0
    ) -> None:
        super().__init__(space)
        decisions, dtype = len(space.choices), torch.float64
        # torch's modules would draw from the caller's random state
        with torch.random.fork_rng(devices=[]):
            self.lstm = nn.LSTM(hidden, hidden, num_layers=2, dtype=dtype)
        # row 0 starts the sequence; the others stand for choice c of decision d
        self.embedding = nn.Parameter(
            torch.empty(1 + decisions * self.most, hidden, dtype=dtype)
        )
        generator = torch.Generator().manual_seed(seed)
        for p in self.parameters():
            nn.init.uniform_(p, -0.08, 0.08, generator)
        self.head = nn.Parameter(
            torch.zeros(decisions, self.most, hidden, dtype=dtype)
        )
        self.bias = nn.Parameter(torch.zeros(decisions, self.most, dtype=dtype))

    def forward(
        self, prefix: Architecture, start: int = 0, state: _State = None
    ) -> tuple[Tensor, _State]:
        """Decision d reads choice d - 1."""
        rows = [0] + [
            1 + d * self.most + self.index[d][choice]
            for d, choice in enumerate(prefix)
        ]
        # (d - start + 1, hidden)
        outputs, state = self.lstm(self.embedding[rows[start:]], state)
        here = slice(start, len(rows))
        scores = (self.head[here] @ outputs[:, :, None])[:, :, 0]
        return scores + self.bias[here], state


class IndependentController(Controller):
    """One softmax for each decision, all independent.

    Its gradient is written out, over plain numbers: on twenty of them torch
    spends its time on calling operations. This is five times as fast, and a
    test compares it with autograd.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space)
        self.table = nn.Parameter(
            torch.zeros(len(space.choices), self.most, dtype=torch.float64)
        )

    def forward(
        self, prefix: Architecture, start: int = 0, state: _State = None
    ) -> tuple[Tensor, _State]:
        """The same whatever was chosen before."""
        return self.table[start : len(prefix) + 1], None

    def softmax(
        self, scores: list[float], prefix: Architecture
    ) -> dict[Choice, float]:
        """Probability of each allowed choice of the next decision, from the
        scores of all of them.
        """
        index = self.index[len(prefix)]
        allowed = {
            choice: scores[index[choice]]
            for choice in self.space.allowed(prefix)
        }
        top = max(allowed.values())
        p = {choice: math.exp(z - top) for choice, z in allowed.items()}
        total = sum(p.values())
        return {choice: x / total for choice, x in p.items()}

    def draw(self, rng: Random) -> Architecture:
        """Draw the choices one after another."""
        arch: Architecture = ()
        for scores in self.table.tolist():
            p = self.softmax(scores, arch)
            arch += tuple(rng.choices(list(p), list(p.values())))
        return arch

    def backward(
        self, arch: Architecture, advantage: float, entropy: float
    ) -> None:
        """The same gradient as the general one, without a graph.

        With p = softmax(z):

            d log p_a / dz_c = [c = a] - p_c
            dH / dz_c = -p_c (log p_c + H)
        """
        table = self.table.tolist()
        for d, (chosen, row) in enumerate(zip(arch, table, strict=True)):
            p = self.softmax(row, arch[:d])
            # 0 log 0 = 0
            log_p = {c: math.log(x) if x else 0.0 for c, x in p.items()}
            h = -sum(x * log_p[c] for c, x in p.items())
            row[:] = [0.0] * len(row)
            for c, x in p.items():
                row[self.index[d][c]] = advantage * (
                    (c == chosen) - x
                ) - entropy * x * (log_p[c] + h)
        self.table.grad = torch.tensor(table, dtype=torch.float64)
