# SPDX-License-Identifier: MIT
"""What tests of searches share: a cheap evaluation, and states compared."""

import torch

# by their names in STRATEGIES
FAST = ["random search", "evolution", "local search", "reinforce, independent"]


def evaluate(arch):
    return arch[0] + len(str(arch[2])) / 10


def same(a, b):
    """Whether two states are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
