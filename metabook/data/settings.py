# SPDX-License-Identifier: MIT
"""Settings as plain JSON, so that two runs can be compared by name.

A number is itself, a tensor its digest, a module its class and attributes. A
function is its name; one without a name of its own is its bytecode with all
that it refers to. Never the `repr` of an object, which may hold an address in
memory.
"""

import json
import math
from collections.abc import Mapping
from enum import Enum
from functools import partial, singledispatch
from pathlib import PurePath
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metabook.data.digests import (
    array_digest,
    code_digest,
    digest,
    name_of,
    refers_to,
    tensor_digest,
)

__all__ = ["described", "module_settings", "of_torch", "settings"]

_Outer = tuple[object, ...]  # what a value lies inside of: it may hold itself
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def described(value: Any, name: str = "the value", outer: _Outer = ()) -> Any:
    """A JSON value that identifies a setting.

    Parameters
    ----------
    value : object
        Numbers, strings, None, torch's types and devices, tensors and arrays,
        functions and classes, ``functools.partial``, modules, lists, tuples,
        sets and dicts of them, and any object with a method ``settings()``
        that returns a dict.
    name : str
        What an error calls it.

    Raises
    ------
    TypeError
        If the value, or something inside of it, is another object.

    Examples
    --------
    >>> described({"lr": 0.1, "loss": torch.nn.functional.mse_loss})
    {'lr': 0.1, 'loss': 'torch.nn.functional.mse_loss'}
    >>> described(lambda x: 2 * x) == described(lambda y: 2 * y)
    True
    >>> described(lambda x: 2 * x) == described(lambda x: 3 * x)
    False
    """
    if any(value is other for other in outer):
        return "itself"
    if isinstance(value, nn.Module):
        tensors = {k: tensor_digest(t) for k, t in value.state_dict().items()}
        return {**settings(value, name, outer), "state": tensors}
    has_own = callable(getattr(value, "settings", None))
    if has_own and not isinstance(value, type | ModuleType):
        return settings(value, name, outer)
    return _described(value, name, (*outer, value))


def settings(
    value: Any, name: str = "the value", outer: _Outer = ()
) -> dict[str, Any]:
    """The class of an object and what its ``settings()`` says; of a module
    without such a method, its `module_settings`.

    Examples
    --------
    >>> settings(nn.Dropout(0.2))
    {'class': 'torch.nn.modules.dropout.Dropout', 'p': 0.2, 'inplace': False}
    """
    own = getattr(value, "settings", None)
    if callable(own):
        found = own()
    elif isinstance(value, nn.Module):
        found = module_settings(value, name=name, outer=outer)
    else:
        raise _unknown(value, name)
    if not isinstance(found, dict):
        raise TypeError(
            f"settings() of {name} returned a {type(found).__name__}; it"
            " returns a dict of numbers and strings"
        )
    values: dict[str, Any] = described(found, name, (*outer, value))
    return {"class": _class(type(value))} | values


def module_settings(
    module: nn.Module,
    leave_out: frozenset[str] = frozenset(),
    name: str = "the module",
    outer: _Outer = (),
) -> dict[str, Any]:
    """What a module is, apart from its state: its public attributes, buffers
    that its state leaves out, and the same of the modules inside of it.

    Parameters
    ----------
    module : nn.Module
    leave_out : set of str
        Attributes of the module itself that do not change what it computes.
    name : str
        What an error calls it.

    Examples
    --------
    >>> module_settings(nn.Conv2d(1, 8, 3))["kernel_size"]
    [3, 3]
    """
    inside, found = (*outer, module), {}
    for key, value in vars(module).items():
        if key.startswith("_") or key in leave_out | _OF_EVERY_MODULE:
            continue
        try:
            found[key] = described(value, f"{name}.{key}", inside)
        except TypeError:
            if not of_torch(_class(type(module))):
                raise
    for key, buffer in module._buffers.items():
        if key in module._non_persistent_buffers_set and buffer is not None:
            found[key] = tensor_digest(buffer)
    parts = {
        key: settings(child, f"{name}.{key}", inside)
        for key, child in module._modules.items()
        if child is not None and not any(child is m for m in inside)
    }
    return found | ({"modules": parts} if parts else {})


def _class(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def of_torch(name: object) -> bool:
    """Whether this is the name of a class of torch."""
    return isinstance(name, str) and name.startswith("torch.")


@singledispatch
def _described(value: Any, name: str, inside: _Outer) -> Any:
    if (known := name_of(value)) is not None:
        return known
    if callable(getattr(value, "__wrapped__", None)):  # as functools.cache does
        return described(value.__wrapped__, name, inside)
    raise _unknown(value, name)


def _unknown(value: object, name: str) -> TypeError:
    return TypeError(
        f"{name} is a {type(value).__name__}: what makes two of them equal"
        " cannot be seen. Give it a method settings() that returns a dict of"
        " numbers and strings (a function can have one as its attribute), or"
        " leave checkpoint= out"
    )


@_described.register(FunctionType)
def _(value: FunctionType, name: str, inside: _Outer) -> Any:
    if (known := name_of(value)) is not None:
        return known
    uses = {
        kind: {
            key: described(v, f"{key}, which {name} uses,", inside)
            for key, v in values.items()
        }
        for kind, values in refers_to(value).items()
    }
    return {"code": code_digest(value.__code__)} | uses


@_described.register(MethodType)
def _(value: MethodType, name: str, inside: _Outer) -> Any:
    owner = described(value.__self__, name, inside)
    return {"method": value.__func__.__qualname__, "of": owner}


@_described.register(partial)
def _(value: "partial[Any]", name: str, inside: _Outer) -> Any:
    parts = {
        "partial": value.func,
        "args": value.args,
        "keywords": value.keywords,
    }
    return described(parts, name, inside)


@_described.register(type)
def _(value: type, name: str, inside: _Outer) -> Any:
    return _class(value)


@_described.register(Tensor)
def _(value: Tensor, name: str, inside: _Outer) -> Any:
    return tensor_digest(value)


@_described.register(np.ndarray)
def _(value: np.ndarray, name: str, inside: _Outer) -> Any:
    if value.dtype.hasobject:
        return described(value.tolist(), name, inside)
    return array_digest(value)


@_described.register(Mapping)
def _(value: Mapping[Any, Any], name: str, inside: _Outer) -> Any:
    return {
        key
        if isinstance(key, str)
        else json.dumps(described(key, name)): described(
            v, f"{name}.{key}", inside
        )
        for key, v in value.items()
    }


@_described.register(list)
@_described.register(tuple)
@_described.register(range)
def _(value: list[Any], name: str, inside: _Outer) -> Any:
    return [described(v, f"{name}[{i}]", inside) for i, v in enumerate(value)]


@_described.register(set)
@_described.register(frozenset)
def _(value: set[Any], name: str, inside: _Outer) -> Any:
    found = [described(v, f"an element of {name}", inside) for v in value]
    return sorted(found, key=json.dumps)


@_described.register(float)
def _(value: float, name: str, inside: _Outer) -> Any:
    return float(value) if math.isfinite(value) else str(value)


@_described.register(np.generic)
def _(value: np.generic, name: str, inside: _Outer) -> Any:
    return described(value.item(), name, inside)


@_described.register(bool)
@_described.register(int)
@_described.register(str)
@_described.register(type(None))
def _(value: Any, name: str, inside: _Outer) -> Any:
    return value


@_described.register(complex)
@_described.register(torch.dtype)
@_described.register(torch.device)
@_described.register(PurePath)
@_described.register(type(...))
def _(value: Any, name: str, inside: _Outer) -> Any:
    return str(value)


@_described.register(bytes)
def _(value: bytes, name: str, inside: _Outer) -> Any:
    return digest(value)


@_described.register(Enum)
def _(value: Enum, name: str, inside: _Outer) -> Any:
    return f"{_class(type(value))}.{value.name}"


@_described.register(ModuleType)
def _(value: ModuleType, name: str, inside: _Outer) -> Any:
    return value.__name__
