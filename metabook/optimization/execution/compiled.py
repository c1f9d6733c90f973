# SPDX-License-Identifier: MIT
"""The whole outer gradient as one compiled program: opt-in, for long runs of
small networks.

Autograd runs once, while the program is recorded; what is recorded are plain
operations from parameters and tasks to the loss and its gradient, second
derivatives included, and `torch.compile` makes them into a few kernels.
Recording and compiling take about half a minute for every shape of the tasks,
and need a C++ compiler.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from metabook.optimization.inner_loop import Weights, add_to_grad, call_with

__all__ = ["Programs"]

Gradient = Callable[..., tuple[Tensor, ...]]


class Programs:
    """Compiled gradients of a module's loss, one for each setting and shape,
    made when they are first needed.
    """

    def __init__(self) -> None:
        self.made: dict[object, Gradient] = {}

    def __deepcopy__(self, memo: object) -> "Programs":
        return Programs()  # a copy of the module compiles its own

    def backward(
        self,
        module: nn.Module,
        loss: Callable[..., Tensor],
        tensors: tuple[Tensor, ...],
        settings: object,
    ) -> Tensor:
        """Add the gradient of ``loss(*tensors)`` to the parameters' ``.grad``
        and return the loss.

        Parameters and buffers go into a program, settings are part of it: those
        of the module are told apart by its ``repr``, others are given. Other
        attributes of a module are as they were when it was recorded.
        """
        parameters = dict(module.named_parameters())
        learned = [name for name, p in parameters.items() if p.requires_grad]
        state = {
            name: t.detach()
            for name, t in (parameters | dict(module.named_buffers())).items()
        }
        look = [
            (t.shape, t.dtype, t.device) for t in (*state.values(), *tensors)
        ]
        key = (repr(module), module.training, settings, *learned, *look)
        with torch.no_grad():
            if key not in self.made:
                self.made[key] = _compile(
                    module, learned, loss, (state, *tensors)
                )
            value, *grads = self.made[key](state, *tensors)
        for name, g in zip(learned, grads, strict=True):
            add_to_grad(parameters[name], g)
        return value


def _compile(
    module: nn.Module,
    learned: list[str],
    loss: Callable[..., Tensor],
    inputs: tuple[Weights | Tensor, ...],
) -> Gradient:
    class Loss(nn.Module):
        """`call_with` replaces the parameters of a module during its forward:
        here the loss is that forward.
        """

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *tensors: Tensor) -> Tensor:
            return loss(*tensors)

    def gradient(state: Weights, *tensors: Tensor) -> tuple[Tensor, ...]:
        theta = {
            name: state[name].detach().requires_grad_() for name in learned
        }
        with torch.enable_grad():
            value = call_with(
                Loss(),
                {f"module.{name}": t for name, t in (state | theta).items()},
                *tensors,
            )
            grads = torch.autograd.grad(value, list(theta.values()))
        return value.detach(), *grads

    recorded = make_fx(gradient)(*inputs)
    program: Gradient = torch.compile(recorded)
    try:
        program(*inputs)
    except Exception as error:
        raise RuntimeError(
            f"torch.compile failed ({type(error).__name__}: {error}). If it"
            " found no C++ compiler, install one or use compiled=False"
        ) from error
    return program
