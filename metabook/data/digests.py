# SPDX-License-Identifier: MIT
"""Digests of what has no short name: the numbers of a tensor, the bytecode of a
function.
"""

import dis
import hashlib
import sys
from collections.abc import Iterator
from types import CellType, CodeType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "array_digest",
    "code_digest",
    "digest",
    "name_of",
    "refers_to",
    "tensor_digest",
]


def digest(data: bytes | memoryview) -> str:
    """The first 16 digits of the SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


def array_digest(array: np.ndarray) -> str:
    """Type, shape and digest of the numbers."""
    data = np.ascontiguousarray(array).tobytes()
    return f"{array.dtype} {array.shape} {digest(data)}"


def tensor_digest(tensor: Tensor) -> str:
    """Type, shape and digest of the numbers, wherever the tensor lies.

    Examples
    --------
    >>> tensor_digest(torch.zeros(2, dtype=torch.bfloat16)).split(" ")[0]
    'bfloat16'
    """
    numbers = tensor.detach().cpu().resolve_conj().resolve_neg()
    dense = numbers if numbers.layout == torch.strided else numbers.to_dense()
    data = dense.contiguous().flatten().view(torch.uint8).numpy().data
    dtype = str(tensor.dtype).removeprefix("torch.")
    return f"{dtype} {tuple(tensor.shape)} {digest(data)}"


def name_of(function: object) -> str | None:
    """``module.name`` of what can be imported by it; None for a lambda, a
    function inside of another, and what a notebook defines, whose text may
    change under its name.

    Examples
    --------
    >>> name_of(torch.nn.functional.mse_loss)
    'torch.nn.functional.mse_loss'
    >>> name_of(lambda x: x) is None
    True
    """
    module = getattr(function, "__module__", None)
    if not isinstance(module, str) or module == "__main__":
        return None
    for attribute in ("__qualname__", "__name__"):
        name = getattr(function, attribute, "")
        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is function:
            return f"{module}.{name}"
    return None


def code_digest(code: CodeType) -> str:
    """Digest of what a function does: bytecode, names and constants, not where
    it stands in a file.
    """
    constants = [_constant(value) for value in code.co_consts]
    parts = [code.co_code.hex(), list(code.co_names), constants]
    return digest(repr(parts).encode())


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return code_digest(value)
    if isinstance(value, tuple):
        return str([_constant(v) for v in value])
    if isinstance(value, frozenset):  # its order changes from run to run
        return f"one of {sorted(_constant(v) for v in value)}"
    return repr(value)  # of a number or a string


def refers_to(function: FunctionType) -> dict[str, dict[str, Any]]:
    """The values that a function uses beside its arguments: their defaults,
    variables of the functions around it, and global ones.
    """
    code, globals_ = function.__code__, function.__globals__
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    names = sorted(set(_global_names(code)))
    defaults = enumerate(function.__defaults__ or ())
    return {
        "defaults": {str(i): value for i, value in defaults}
        | (function.__kwdefaults__ or {}),
        "closure": {
            name: cell.cell_contents
            for name, cell in cells.items()
            if cell != CellType()  # one that is not filled yet
        },
        "globals": {n: globals_[n] for n in names if n in globals_},
    }


def _global_names(code: CodeType) -> Iterator[str]:
    """Global names that the code reads, also in functions inside of it."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)
