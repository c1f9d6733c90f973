# SPDX-License-Identifier: MIT
"""A small multilayer perceptron, the network of the MAML paper's sine waves.

Taught in section 3.1 of the book.
"""

import itertools
from collections.abc import Sequence

from torch import nn

__all__ = ["MLP"]


class MLP(nn.Sequential):
    """A multilayer perceptron with ReLU; whatever comes in is flattened first.

    Parameters
    ----------
    inputs, outputs : int
        Width of the first and of the last layer.
    hidden : sequence of int
        Widths between them; 40 and 40 is the network of the MAML paper's sine
        waves.

    Examples
    --------
    >>> sum(p.numel() for p in MLP(1, 1).parameters())
    1761
    """

    def __init__(
        self, inputs: int, outputs: int, hidden: Sequence[int] = (40, 40)
    ) -> None:
        widths = [inputs, *hidden, outputs]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU()]
        super().__init__(nn.Flatten(), *layers[:-1])
        self.inputs, self.outputs, self.hidden = inputs, outputs, tuple(hidden)
