# SPDX-License-Identifier: MIT
"""What a network returns: one tensor, or an error that says how to get one."""

from typing import Any

from torch import Tensor

__all__ = ["one_tensor"]


def one_tensor(output: Any) -> Tensor:
    """The output of a network, if it is a tensor.

    Raises
    ------
    TypeError
        If it is a dict, a tuple or something else, with the lines of code that
        take one tensor out of it.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict):
        what = f"a dict with {', '.join(map(repr, output))}"
        key = repr(next(iter(output), "logits"))
    else:
        size = f" of {len(output)}" if isinstance(output, tuple | list) else ""
        what, key = f"a {type(output).__name__}{size}", "0"
    raise TypeError(
        f"the network returned {what}; a learner takes one tensor. Wrap it:"
        " class Wrapped(torch.nn.Module): with self.net = net in its"
        f" constructor, and forward(self, x): return self.net(x)[{key}], or"
        " whichever part is meant"
    )
