# SPDX-License-Identifier: MIT
"""A learner, or what it has learned of a task, in one file.

The file holds plain values and tensors, and is read without running code from
it. Learners and networks of this package are made again from their arguments:
as in scikit-learn, a constructor keeps each argument as an attribute of its
name. What is the user's own (a network, a loss, a distance) is passed again.
Taught in section 5.2 of the book.
"""

import importlib
import inspect
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from metabook.data.files import load_state, write_whole
from metabook.data.settings import module_settings
from metabook.learner.protocol import EXECUTION, Learner, Predictor

__all__ = ["load", "save"]

FORMAT = 1


def save(learner: Learner | Predictor, path: str | Path) -> None:
    """Save a learner, or a predictor with its learner, whole or not at all.

    Parameters
    ----------
    learner : Learner or Predictor
    path : path
        Of the file; its folder is made where there is none.

    Raises
    ------
    ValueError
        If the learner does not keep an argument of its constructor as an
        attribute of that name, so that it could not be made again.

    Examples
    --------
    >>> import tempfile
    >>> import metabook as mb
    >>> file = Path(tempfile.mkdtemp()) / "learner.pt"
    >>> mb.save(mb.ProtoNet(mb.Conv4(width=8), temperature=2.0), file)
    >>> mb.load(file).temperature
    2.0
    """
    content: dict[str, Any] = {"format": FORMAT, "kind": "metabook learner"}
    if isinstance(learner, Predictor):
        content["predictor"] = {
            "state": {k: t.detach() for k, t in learner.state.items()},
            "example": list(learner.example),
            "classes": learner.classes,
            "class_names": learner.class_names,
        }
        learner = learner.learner
    content |= {
        "learner": _described(learner),
        "weights": learner.state_dict(),
        "frozen": [
            n for n, p in learner.named_parameters() if not p.requires_grad
        ],
    }
    data = io.BytesIO()
    torch.save(content, data)
    write_whole(Path(path), data.getvalue())


def load(path: str | Path, **yours: Any) -> Any:
    """Load what `save` wrote, in evaluation mode, on the CPU.

    Parameters
    ----------
    path : path
    **yours
        What is not this package's own, by the name of the learner's argument,
        such as ``model=net`` or ``loss_fn=my_loss``. A network gets the saved
        weights, whatever it had. A learner of one's own class is found by its
        name; the class must have been imported.

    Returns
    -------
    Learner or Predictor
        Whichever was saved.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is something else; if something of one's own is missing,
        which the message names; or if a network does not fit the weights.

    Examples
    --------
    >>> import tempfile
    >>> import metabook as mb
    >>> file = Path(tempfile.mkdtemp()) / "learner.pt"
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(784, 5))
    >>> mb.save(mb.MAML(net, inner_lr=0.1), file)
    >>> again = nn.Sequential(nn.Flatten(), nn.Linear(784, 5))
    >>> mb.load(file, model=again).inner_lr
    0.1
    """
    content = load_state(Path(path))
    if content.get("kind") != "metabook learner":
        raise ValueError(
            f"{path} holds no learner that mb.save wrote. If it holds weights"
            " alone, as best.pt of a training does, make the learner first:"
            " learner.load_state_dict(torch.load(path, weights_only=True))"
        )
    if content["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {content['format']}, and this version of"
            f" metabook reads format {FORMAT}: use the version that wrote it"
        )
    learner = _made(content["learner"], yours, str(path))
    try:
        learner.load_state_dict(content["weights"], assign=True)
    except RuntimeError as error:
        raise ValueError(
            f"the weights in {path} do not fit this network ({error}): pass"
            " one that is built as the saved one was"
        ) from error
    frozen = set(content["frozen"])
    for name, p in learner.named_parameters():
        p.requires_grad_(name not in frozen)
    learner.eval()
    if "predictor" not in content:
        return learner
    kept = content["predictor"]
    return learner.predictor_type(
        learner,
        kept["state"],
        torch.Size(kept["example"]),
        kept["classes"],
        kept["class_names"],
    )


def _arguments(thing: object) -> Iterator[tuple[str, Any]]:
    """The arguments that make a learner or a network again."""
    for name in inspect.signature(type(thing)).parameters:
        if name in EXECUTION:
            continue
        if not hasattr(thing, name):
            raise ValueError(
                f"{type(thing).__name__} cannot be saved whole: its argument"
                f" {name!r} is not kept as an attribute. Let its constructor"
                f" set self.{name}, or save its weights alone with torch.save("
                "learner.state_dict(), path)"
            )
        yield name, getattr(thing, name)


def _described(thing: Learner | nn.Module) -> dict[str, Any]:
    arguments = {name: _value(value) for name, value in _arguments(thing)}
    return {"class": _name(type(thing)), "arguments": arguments}


def _value(value: Any) -> dict[str, Any]:
    """One argument, as plain values."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        value = [v.item() if isinstance(v, np.generic) else v for v in value]
    if value is None or isinstance(value, bool | int | float | str | Tensor):
        return {"value": value}
    if isinstance(value, list | tuple) and all(
        isinstance(v, bool | int | float | str) for v in value
    ):
        return {"value": list(value)}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, nn.Module):
        described = _module(value)
        return described or {"yours": type(value).__name__}
    if callable(value) and _ours(value):
        return {"function": _name(value)}
    return {"yours": getattr(value, "__name__", type(value).__name__)}


def _module(module: nn.Module) -> dict[str, Any] | None:
    """How a network of this package, or a layer of torch without weights and
    options, is made again; ``None`` if that would be another one.
    """
    kind = type(module)
    if kind.__module__.startswith("metabook."):
        described = {"module": _described(module)}
    elif kind.__module__.startswith("torch.nn.") and not module.state_dict():
        described = {"module": {"class": _name(kind), "arguments": {}}}
    else:
        return None
    try:
        again = _again(described)
    except TypeError:  # a layer of torch that wants arguments
        return None
    return described if _looks(again) == _looks(module) else None


def _looks(module: nn.Module) -> tuple[object, ...]:
    """What two networks that are built alike have in common: their layers and
    options, and which of their normalisation layers are frozen.
    """
    frozen = [
        not m.training and not any(p.requires_grad for p in m.parameters())
        for m in module.modules()
        if isinstance(m, _NormBase) and any(True for _ in m.parameters())
    ]
    return repr(module), module_settings(module), frozen


def _ours(function: Any) -> bool:
    """Whether a function is found again by its name, in torch or here."""
    module = getattr(function, "__module__", None) or ""
    if not module.startswith(("torch.nn.functional", "metabook.")):
        return False
    try:
        return _import(_name(function), FunctionType) is function
    except ValueError:
        return False


def _name(thing: Any) -> str:
    return f"{thing.__module__}:{thing.__qualname__}"


def _import(name: str, kind: type) -> Any:
    """A class or function that stands in a module of torch or of this package:
    what a module has only imported, such as ``os``, is not followed.
    """
    module, _, own = name.partition(":")
    known = module.startswith(("torch.nn.", "metabook.")) and own.isidentifier()
    try:
        thing = getattr(importlib.import_module(module), own) if known else None
    except (ImportError, AttributeError):
        thing = None
    if kind is FunctionType:
        right = isinstance(thing, FunctionType)
    else:
        right = isinstance(thing, type) and issubclass(thing, kind)
    if not right or getattr(thing, "__module__", None) != module:
        raise ValueError(
            f"the file asks for {name!r}, which is no {kind.__name__} of torch"
            " or of this version of metabook"
        )
    return thing


def _made(described: dict[str, Any], yours: dict[str, Any], path: str) -> Any:
    """A learner from its description and what is the user's own."""
    arguments = described["arguments"]
    lacking = {
        name: value["yours"]
        for name, value in arguments.items()
        if "yours" in value and name not in yours
    }
    if lacking:
        calls = ", ".join(f"{name}=..." for name in lacking)
        listed = " and ".join(f"{n} (a {kind})" for n, kind in lacking.items())
        raise ValueError(
            f"{path} does not hold {listed}, which is not this package's own:"
            f" mb.load({path!r}, {calls})"
        )
    foreign = sorted(yours.keys() - arguments.keys())
    if foreign:
        raise ValueError(
            f"the learner in {path} has no argument {foreign[0]!r}; it has"
            f" {', '.join(arguments)}"
        )
    given = {n: _again(v) for n, v in arguments.items() if n not in yours}
    return _class(described["class"])(**given, **yours)


def _again(value: dict[str, Any]) -> Any:
    """What `_value` described."""
    if "dtype" in value:
        return getattr(torch, value["dtype"])
    if "function" in value:
        return _import(value["function"], FunctionType)
    if "module" in value:
        described = value["module"]
        arguments = described["arguments"]
        given = {name: _again(v) for name, v in arguments.items()}
        return _import(described["class"], nn.Module)(**given)
    return value["value"]


def _class(name: str) -> Callable[..., Learner]:
    """A learner's class by its name, wherever it was defined."""
    if name.startswith("metabook."):
        return cast(Callable[..., Learner], _import(name, Learner))
    for kind in _below(Learner):  # type: ignore[type-abstract]
        if _name(kind) == name:
            return kind
    raise ValueError(
        f"the file holds a {name.partition(':')[2]}, a learner of"
        f" {name.partition(':')[0]}: define it, or import that module, before"
        " loading"
    )


def _below(kind: type[Learner]) -> Iterator[type[Learner]]:
    for child in kind.__subclasses__():
        yield child
        yield from _below(child)
