# SPDX-License-Identifier: MIT
"""The whole outer gradient as one compiled program: opt-in, for long runs of small networks.

Autograd runs once, while the program is recorded; what is recorded are plain operations from parameters and tasks to
the loss and its gradient, second derivatives included, and `torch.compile` makes them into a few kernels. Recording
and compiling take about half a minute for every shape of the tasks, and need a C++ compiler.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

__all__ = ["Programs"]

Gradient = Callable[..., tuple[Tensor, ...]]


class Programs:
    """Compiled gradients of a module's loss, one for each setting and shape, made when they are first needed."""

    def __init__(self) -> None:
        self.made: dict[object, Gradient] = {}

    def __deepcopy__(self, memo: object) -> "Programs":
        return Programs()  # a copy of the module compiles its own

    def backward(
        self, module: nn.Module, loss: Callable[..., Tensor], tensors: tuple[Tensor, ...], settings: object
    ) -> Tensor:
        """Add the gradient of ``loss(*tensors)`` to the parameters' ``.grad`` and return the loss.

        Settings are part of a program: those of the module are told apart by its ``repr``, others are given.
        """
        parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        key = (repr(module), module.training, settings, *((t.shape, t.dtype, t.device) for t in tensors))
        inputs = ([p.detach() for p in parameters.values()], *tensors)
        with torch.no_grad():
            if key not in self.made:
                self.made[key] = _compile(module, list(parameters), loss, inputs)
            value, *grads = self.made[key](*inputs)
        for p, g in zip(parameters.values(), grads, strict=True):
            p.grad = g.clone() if p.grad is None else p.grad.add_(g)
        return value


def _compile(module: nn.Module, names: list[str], loss: Callable[..., Tensor], inputs: tuple) -> Gradient:  # type: ignore[type-arg]
    class Loss(nn.Module):
        """functional_call replaces the parameters of a module during its forward: here the loss is that forward."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *tensors: Tensor) -> Tensor:
            return loss(*tensors)

    def gradient(parameters: list[Tensor], *tensors: Tensor) -> tuple[Tensor, ...]:
        theta = {f"module.{n}": p.detach().requires_grad_() for n, p in zip(names, parameters, strict=True)}
        with torch.enable_grad():
            value = torch.func.functional_call(Loss(), theta, tensors)
            grads = torch.autograd.grad(value, list(theta.values()))
        return value.detach(), *grads

    program: Gradient = torch.compile(make_fx(gradient)(*inputs))
    try:
        program(*inputs)
    except Exception as error:
        raise RuntimeError(
            f"torch.compile failed ({type(error).__name__}: {str(error).splitlines()[0]}). It needs a C++ compiler; "
            "without one use compiled=False"
        ) from error
    return program
