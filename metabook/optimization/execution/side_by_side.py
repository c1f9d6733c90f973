# SPDX-License-Identifier: MIT
"""The model as a function of weights and inputs: for one task alone, or for T
tasks side by side.

    call(model, weights, x)  ->  predictions (T, B, ...)
    weights {name: (T, ...)},  x (T, B, ...)

With T = 1 this is `torch.func.functional_call`, the plain way. With more, a
multilayer perceptron becomes a few batched matrix products, and any other model
goes through `torch.vmap`. Which way is the faster one depends on the model and
the device: small matrix products leave a processor waiting for Python, so that
tasks together gain a factor of ten; convolutions with other weights for every
task are slower together than in turn, on a CPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from metabook.learner.probes import hooks_of
from metabook.models.norms import SupportNorm, normalize
from metabook.optimization.inner_loop import Weights, call_with

__all__ = ["call", "obstacle", "support_statistics", "worthwhile"]

ELEMENTWISE = (
    nn.ReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
    nn.LeakyReLU,
    nn.Softplus,
    nn.Identity,
)

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)

Result = TypeVar("Result", Tensor, Weights)


def call(model: nn.Module, weights: Weights, x: Tensor) -> Tensor:
    """The model's predictions for every task with that task's weights; the
    model itself is left as it is.

    Parameters
    ----------
    model : nn.Module
    weights : dict of name to Tensor, (T, ...)
        Parameters and buffers to use in place of the model's own; what is not
        named is shared by all tasks.
    x : Tensor, (T, B, ...)

    Returns
    -------
    Tensor, (T, B, ...)
    """
    layers = perceptron_layers(model)
    if (
        len(x) > 1
        and layers
        and (x.dim() == 3 or isinstance(layers[0][1], nn.Flatten))
    ):
        return _perceptron(layers, weights, x)
    return _for_each_task(
        lambda w, x: _call_one(model, w, x), model, weights, x
    )


def support_statistics(
    model: nn.Module, weights: Weights, x: Tensor
) -> Weights:
    """What every `SupportNorm` of the model sees of the support sets,
    {name.mean, name.var: (T, channels)}.

    As buffers they are part of what a task has learned: with them the queries
    are normalised as the support set is.
    """
    norms = {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, SupportNorm)
    }
    if not norms:
        return {}

    def statistics(weights: Weights, x: Tensor) -> Weights:
        seen: Weights = {}

        def note(name: str, layer: SupportNorm, inputs: tuple[Tensor]) -> None:
            if f"{name}.mean" in seen:
                raise ValueError(
                    f"{name} is used twice in one pass; give each place a"
                    " SupportNorm of its own"
                )
            seen[f"{name}.var"], seen[f"{name}.mean"] = layer.statistics(
                inputs[0]
            )

        hooks = [
            m.register_forward_pre_hook(partial(note, name))
            for name, m in norms.items()
        ]
        try:
            _call_one(model, weights, x)
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    return _for_each_task(statistics, model, weights, x)


def worthwhile(model: nn.Module, device: torch.device) -> bool:
    """Whether tasks side by side are faster than in turn: perceptrons anywhere,
    other models on a GPU.
    """
    return perceptron_layers(model) is not None or (
        device.type != "cpu" and obstacle(model) is None
    )


def obstacle(model: nn.Module) -> str | None:
    """What keeps the tasks of a model from being computed side by side, in
    words; ``None`` if nothing does.
    """
    for name, module in model.named_modules():
        if isinstance(module, _DropoutNd):
            return (
                f"{name or 'the model'} is dropout, which torch.vmap cannot"
                " draw for every task as a loop would"
            )
        if isinstance(module, nn.RNNBase):
            return (
                f"{name or 'the model'} is recurrent, and torch.vmap has no"
                " rule for recurrent layers"
            )
        if module._backward_hooks or module._backward_pre_hooks:
            return (
                f"{name or 'the model'} has a backward hook, which torch.vmap"
                " would not call"
            )
    return None


def perceptron_layers(model: nn.Module) -> list[tuple[str, nn.Module]] | None:
    """The layers of a model that is nothing but linear layers and elementwise
    functions in a row; else ``None``.
    """
    layers: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        own = [id(p) for p in module._parameters.values() if p is not None]
        # somebody listens, or weights are tied
        if any(hooks_of(module)) or seen & set(own):
            return None
        seen.update(own)
        if (
            isinstance(module, nn.Sequential)
            and type(module).forward is nn.Sequential.forward
        ):
            continue
        whole = type(module) is nn.Flatten and (
            module.start_dim,
            module.end_dim,
        ) == (1, -1)
        if (
            not whole
            and type(module) is not nn.Linear
            and type(module) not in ELEMENTWISE
        ):
            return None
        layers.append((name, module))
    return layers


def _perceptron(
    layers: list[tuple[str, nn.Module]], weights: Weights, x: Tensor
) -> Tensor:
    """T perceptrons in as many batched matrix products as one has layers."""
    for name, layer in layers:
        if isinstance(layer, nn.Linear):
            own = {
                path: p.expand(len(x), *p.shape)
                for path, p in layer.named_parameters(prefix=name)
            }
            w, b = (
                (own | weights).get(f"{name}.{part}".lstrip("."))
                for part in ("weight", "bias")
            )
            assert w is not None  # a linear layer has weights
            x = (
                x @ w.mT if b is None else torch.baddbmm(b[:, None], x, w.mT)
            )  # (T, B, in) -> (T, B, out)
        else:
            x = x.flatten(2) if isinstance(layer, nn.Flatten) else layer(x)
    return x


def _call_one(model: nn.Module, weights: Weights, x: Tensor) -> Tensor:
    buffers = {
        name: b.clone() for name, b in model.named_buffers()
    }  # what the model writes goes into these
    return call_with(model, buffers | weights, x)


def _for_each_task(
    f: Callable[[Weights, Tensor], Result],
    model: nn.Module,
    weights: Weights,
    x: Tensor,
) -> Result:
    """f(weights, x) of one task, for T tasks: plainly for one, by torch.vmap
    for more.
    """
    if len(x) > 1:
        if why := obstacle(model):  # a hook may have come since
            raise RuntimeError(
                f"the tasks cannot be computed side by side: {why}; use"
                " vectorized=False"
            )
        with _norms_written_out(model):
            try:
                return torch.vmap(f)(weights, x)
            except RuntimeError as error:
                raise RuntimeError(
                    "the tasks of this model cannot be computed side by side"
                    f" ({error}): use vectorized=False"
                ) from error
    result = f({name: w[0] for name, w in weights.items()}, x[0])
    return (
        {name: r[None] for name, r in result.items()}
        if isinstance(result, dict)
        else result[None]
    )


@contextmanager
def _norms_written_out(model: nn.Module) -> Iterator[None]:
    """Compute normalisation by its formula: under vmap torch's own group norm
    raises for images laid out channels last.

    And torch's batch norm has second derivatives that are wrong, without a
    word, under ``vmap`` of ``torch.func.grad`` (seen in 2.13). Gradients are
    taken outside of vmap here, where it was right; a formula asks for no such
    care.
    """
    layers = {
        m: _batch_norm if isinstance(m, _BatchNorm) else _group_norm
        for m in model.modules()
        if type(m) in NORMS
    }
    for m, formula in layers.items():
        m.forward = partial(formula, m)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for m in layers:
            del m.forward


def _batch_norm(layer: _BatchNorm, x: Tensor) -> Tensor:
    if layer.running_mean is not None and not layer.training:
        assert layer.running_var is not None  # the two come together
        mean, var = layer.running_mean, layer.running_var
    else:
        var, mean = SupportNorm.statistics(x)
    return normalize(x, mean, var, layer.weight, layer.bias, layer.eps)


def _group_norm(layer: nn.GroupNorm, x: Tensor) -> Tensor:
    groups = x.reshape(
        len(x), layer.num_groups, -1
    )  # (B, groups, channels in it * ...)
    var, mean = torch.var_mean(groups, dim=2, correction=0, keepdim=True)
    x = ((groups - mean) * (var + layer.eps).rsqrt()).view_as(x)
    return normalize(
        x, x.new_zeros(()), x.new_ones(()), layer.weight, layer.bias, 0.0
    )
