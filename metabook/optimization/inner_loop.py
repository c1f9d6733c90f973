# SPDX-License-Identifier: MIT
"""The inner loop: gradient steps on a support set, as a function from weights
to weights.

    theta_{s+1} = theta_s - lr * grad L_support(theta_s)

Nothing is changed in place: the caller's model keeps its weights and buffers,
and the result is differentiable with respect to theta_0. Taught in sections 4.1
and 5.1 of the book.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from metabook.models.outputs import one_tensor

__all__ = [
    "Weights",
    "add_to_grad",
    "call_with",
    "gradient_steps",
    "maml_update",
    "twice_differentiable",
]

Weights = dict[str, Tensor]


def maml_update(
    model: nn.Module, loss: Tensor, lr: float, *, first_order: bool = False
) -> list[Tensor]:
    """One inner step, theta' = theta - lr * grad(loss): the document's listing
    of section 5.1, mended.

    Parameters
    ----------
    model : nn.Module
        Left as it is.
    loss : Tensor
        A scalar that every parameter of ``model`` took part in.
    lr : float
    first_order : bool
        Treat the gradient as a constant, so that the derivative of theta' with
        respect to theta is the identity instead of I - lr * H.

    Returns
    -------
    list of Tensor
        The fast weights, in the order of ``model.parameters()`` (frozen ones
        unchanged). ``functional_call`` takes them by name:
        ``dict(zip(dict(model.named_parameters()), fast_weights))``.

    Raises
    ------
    ValueError
        If the loss does not depend on some parameter; the message names it.

    References
    ----------
    Finn, Abbeel & Levine, 2017, https://arxiv.org/abs/1703.03400

    Examples
    --------
    >>> model = nn.Linear(1, 1, bias=False)
    >>> loss = model(torch.ones(1, 1)).sum()  # its gradient is 1
    >>> fast_weights = maml_update(model, loss, lr=0.5)
    >>> bool(fast_weights[0] == model.weight - 0.5)
    True
    """
    weights: Weights = dict(model.named_parameters())
    moving = {name: w for name, w in weights.items() if w.requires_grad}
    return list((weights | _step(moving, loss, lr, not first_order)).values())


def gradient_steps(
    weights: Weights,
    loss: Callable[[Weights, int], Tensor],
    lr: Callable[[int], float | Weights],
    steps: int,
    graph: bool,
    connected: bool = True,
) -> Iterator[Weights]:
    """Yield the weights before the first gradient step, and after each of
    ``steps`` steps.

    Parameters
    ----------
    weights : dict of name to Tensor
        Where to start.
    loss : callable
        ``loss(weights, s)``: the scalar that step s goes down.
    lr : callable
        ``lr(s)``: the step size of step s, one number or a tensor for every
        weight.
    steps : int
    graph : bool
        Keep the graph of the gradients, so that the result can be
        differentiated twice (MAML proper).
    connected : bool
        Let the result depend on where it started; at test nobody asks, and a
        step forgets the one before.
    """
    yield weights
    for s in range(steps):
        weights = _step(weights, loss(weights, s), lr(s), graph)
        if not connected:
            weights = {
                name: w.detach().requires_grad_() for name, w in weights.items()
            }
        yield weights


def _step(
    weights: Weights, loss: Tensor, lr: float | Weights, graph: bool
) -> Weights:
    if not loss.requires_grad:
        raise ValueError(
            "the loss does not depend on any parameter: was it computed under"
            " torch.no_grad()?"
        )
    grads = torch.autograd.grad(
        loss, list(weights.values()), create_graph=graph, allow_unused=True
    )
    unused = [name for name, g in zip(weights, grads, strict=True) if g is None]
    if unused:
        raise ValueError(
            f"the loss does not reach {', '.join(unused)}: gradient descent"
            " cannot adapt what has no gradient. Remove it from the model, or"
            " freeze it with requires_grad_(False)"
        )
    lrs = lr if isinstance(lr, dict) else dict.fromkeys(weights, lr)
    return {
        name: w - lrs[name] * g
        for (name, w), g in zip(weights.items(), grads, strict=True)
    }


def call_with(model: nn.Module, weights: Weights, *inputs: Tensor) -> Tensor:
    """``model(*inputs)`` with these parameters and buffers in place of its own,
    by name.

    A tensor that the model uses in several places goes to all of them.
    (``functional_call`` can do that too, but where one module has two names it
    leaves the model with tensors in place of its parameters.)
    """
    first: dict[int, str] = {}
    places = dict(weights)
    for path, module in model.named_modules():  # every module once
        for part, p in module._parameters.items():
            if p is not None:
                name = f"{path}.{part}" if path else part
                origin = first.setdefault(id(p), name)
                if origin in weights:
                    places[name] = weights[origin]
    return one_tensor(functional_call(model, places, inputs, tie_weights=False))


def add_to_grad(parameter: Tensor, gradient: Tensor) -> None:
    """Add to ``.grad``, which gets the parameter's own layout in memory: fused
    optimisers read both as flat arrays.
    """
    if parameter.grad is None:
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
    else:
        parameter.grad.add_(gradient)


@contextmanager
def twice_differentiable(first_order: bool = False) -> Iterator[None]:
    """Run attention by its plain formula: torch's fused kernels have no second
    derivative.

    Whatever else lacks one is named, with the way out, in place of torch's own
    error.
    """
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    except RuntimeError as error:
        text = str(error)
        if isinstance(error, _Explained):
            raise
        if "RNN backward can only be called in training mode" in text:
            raise _Explained(
                f"a recurrent layer has no gradient in evaluation ({text}),"
                " which the inner loop needs there too: run it under"
                " torch.backends.cudnn.flags(enabled=False)"
            ) from error
        signs = ("derivative for", "once_differentiable", "ouble backward")
        if first_order or not any(sign in text for sign in signs):
            raise
        raise _Explained(
            f"an operation of the model has no second derivative ({text})."
            " MAML differentiates through its own gradient steps: replace that"
            " operation (recurrent layers on a GPU: run them under"
            " torch.backends.cudnn.flags(enabled=False)), or leave the second"
            " derivatives out with first_order=True"
        ) from error


class _Explained(RuntimeError):
    """Raised once, however deep."""
