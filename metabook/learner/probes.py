# SPDX-License-Identifier: MIT
"""What a network does is found out by trying it, and not by the names of its
layers.

A trial happens once for each kind of examples, on a copy of the learner. The
caller's network, its buffers and the random state are as before, and hooks of
the user's see no pass that was not asked for. What fails on the copy is no
answer. The environment variable ``METABOOK_PROBE=0`` switches all trials off.
"""

import copy
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from metabook.data.global_random import random_numbers_of

__all__ = [
    "Trials",
    "depends_on_others",
    "hooks_of",
    "kind",
    "probing",
    "twin",
]

ROWS = 8  # examples to try with

SomeModule = TypeVar("SomeModule", bound=nn.Module)


def probing() -> bool:
    """Whether anything is tried at all."""
    return os.environ.get("METABOOK_PROBE", "1") != "0"


def kind(learner: nn.Module, x: Tensor) -> tuple[object, ...]:
    """What a trial is repeated for, if it is another one: the type and shape
    of examples (T, B, ...), the layers of the learner, their buffers.

    Examples
    --------
    >>> net, x = nn.BatchNorm1d(3), torch.zeros(1, 5, 3)
    >>> before = kind(net, x)
    >>> kind(net, x[:, :2]) == before
    True
    >>> net.running_mean = None
    >>> kind(net, x) == before
    False
    """
    buffers = tuple(name for name, _ in learner.named_buffers())
    layers = *map(type, learner.modules()), *buffers
    return x.shape[2:], x.dtype, x.device, layers


class Trials:
    """What was found out about a learner, and the task to try it on."""

    def __init__(self) -> None:
        self.task: tuple[Tensor, Tensor, Tensor] | None = None
        self.found: dict[object, bool | None] = {}

    def __deepcopy__(self, memo: object) -> "Trials":
        other = copy.copy(self)  # nobody writes into the task
        other.found = dict(self.found)
        return other

    def show(
        self, support_x: Tensor, support_y: Tensor, query_x: Tensor
    ) -> None:
        """Keep a task, where its examples are of a new shape or type. What is
        no task is refused elsewhere.
        """
        parts = support_x, support_y, query_x
        if not all(isinstance(t, Tensor) and t.dim() > 1 for t in parts):
            return
        if query_x.shape[1] == 1:  # no example beside it
            return
        kept = self.task and (self.task[2].shape[2:], self.task[2].dtype)
        if kept != (query_x.shape[2:], query_x.dtype):
            x, y, q = (t[:1].detach().clone() for t in parts)
            self.task = x, y, q[:, :ROWS]

    def transductive(self, learner: Any) -> bool | None:
        """Whether the answer to a query depends on the queries beside it;
        ``None`` as long as that is not known.
        """
        if self.task is None or not probing():
            return None
        key = kind(learner, self.task[0])
        if key not in self.found:
            self.found[key] = None  # the copy does not try itself
            self.found[key] = _transductive(learner, *self.task)
        return self.found[key]


def _transductive(learner: Any, x: Tensor, y: Tensor, q: Tensor) -> bool | None:
    try:
        with torch.no_grad(), random_numbers_of(0, x.device):
            tried = twin(learner).eval()
            state = tried.remember(x, y)
            return depends_on_others(partial(tried.answer, state), q)
    except Exception:
        return None


def depends_on_others(
    answer: Callable[[Tensor], Tensor], x: Tensor
) -> bool | None:
    """Whether the answer to one example depends on those beside it; ``None``
    if that cannot be told.

    Parameters
    ----------
    answer : callable
        From examples (T, B, ...) to (T, B, ...).
    x : Tensor, (T, B, ...)

    Examples
    --------
    >>> x = torch.tensor([[[1.0], [2.0]]])
    >>> depends_on_others(lambda x: x - x.mean(dim=1), x)
    True
    >>> depends_on_others(torch.sigmoid, x)
    False
    """
    # as many beside it each time: no layer has to normalise one example
    copies = x[:, :1].expand_as(x).contiguous()
    with random_numbers_of(0, x.device):
        among_others = answer(x)
    with random_numbers_of(0, x.device):
        among_copies = answer(copies)
    size = among_copies.abs().max()
    change = (among_others - among_copies)[:, 0].abs().max()
    finite = bool(torch.isfinite(size + change))
    if not finite or torch.equal(among_others, among_copies):
        return None  # all examples are the same to it
    return bool(change > 1e-4 * size)


def twin(module: SomeModule) -> SomeModule:
    """A copy to try things on.

    Its weights lie near those of the module, but nowhere special: a layer that
    starts at zero hides what comes before it. Hooks of the user's are left
    out; torch's own are part of a layer, as ``torch.nn.utils.weight_norm``.

    Examples
    --------
    >>> layer = nn.Linear(2, 3)
    >>> handle = layer.register_forward_hook(print)
    >>> _ = twin(layer)(torch.zeros(1, 2))
    """
    memo: dict[int, object] = {}
    for m in module.modules():
        for value in vars(m).values():  # an activation that a module kept
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
        for hooks in hooks_of(m):
            memo |= {id(h): h for h in hooks.values()}
    copied = copy.deepcopy(module, memo)
    for m in copied.modules():
        for hooks in hooks_of(m):
            for key in [k for k, h in hooks.items() if not _of_torch(h)]:
                del hooks[key]
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in copied.parameters():
            z = 0.01 * torch.randn(p.shape, generator=noise).to(p)
            p.copy_(torch.where(p == 0, z, p * (1 + z)))
    return copied


def hooks_of(module: nn.Module) -> Iterator[dict[int, Callable[..., object]]]:
    """Those that are called with each pass through a layer, by their kind."""
    yield module._forward_hooks
    yield module._forward_pre_hooks
    yield module._backward_hooks
    yield module._backward_pre_hooks


def _of_torch(hook: object) -> bool:
    return type(hook).__module__.startswith("torch.")
