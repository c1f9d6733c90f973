# SPDX-License-Identifier: MIT
"""Zero-cost proxies: guesses at a network's accuracy that need one batch and no
training.

    parameter_count     the number of weights
    multiply_adds       of the convolutions and linear layers, for one batch
    gradient_norm       |gradient of the loss| at initialisation
    naswot              log |det K|, where K_ij counts the rectifiers that
                        agree on examples i and j

All leave the network as it was: gradients, buffers and modes. Taught in section
3.2 of the book.

Abdelfattah, Mehrotra, Dudziak & Lane, *Zero-Cost Proxies for Lightweight NAS*,
2021, https://arxiv.org/abs/2101.08134; Mellor, Turner, Storkey & Crowley,
*Neural Architecture Search without Training*, 2021,
https://arxiv.org/abs/2006.04647.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["gradient_norm", "multiply_adds", "naswot", "parameter_count"]


def parameter_count(model: nn.Module) -> int:
    """The number of weights that training would change.

    References
    ----------
    Abdelfattah, Mehrotra, Dudziak & Lane, 2021,
    https://arxiv.org/abs/2101.08134

    Examples
    --------
    >>> parameter_count(nn.Linear(3, 2))
    8
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def multiply_adds(model: nn.Module, x: Tensor) -> int:
    """Multiplications (each with its addition) of all convolutions and linear
    layers, for the batch ``x``.

    Examples
    --------
    >>> model = nn.Conv2d(1, 4, 3, padding=1)
    >>> multiply_adds(model, torch.zeros(1, 1, 8, 8))
    2304
    >>> 8 * 8 * 9 * 4  # 8 x 8 places, 9 weights, 4 channels
    2304
    """
    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(model).eval()(x)
    return int(counter.get_total_flops()) // 2  # it counts both operations


def gradient_norm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> float:
    """The Euclidean norm of the loss's gradient on one batch, of all weights.

    Parameters
    ----------
    model : nn.Module
    x : Tensor, (B, ...)
    y : Tensor, (B,)
    loss_fn : callable
        ``loss_fn(predictions, targets)``, a scalar.

    References
    ----------
    Abdelfattah, Mehrotra, Dudziak & Lane, 2021,
    https://arxiv.org/abs/2101.08134

    Examples
    --------
    >>> model = nn.Linear(1, 1, bias=False)
    >>> nn.init.constant_(model.weight, 2.0).requires_grad
    True
    >>> x, y = torch.ones(1, 1), torch.zeros(1, 1)
    >>> gradient_norm(model, x, y, F.mse_loss)  # d w^2 / dw at w = 2
    4.0
    """
    model = copy.deepcopy(model).train()
    weights = [p for p in model.parameters() if p.requires_grad]
    loss = loss_fn(model(x), y)
    grads = torch.autograd.grad(loss, weights, allow_unused=True)
    return float(torch.stack([g.norm() for g in grads if g is not None]).norm())


@torch.no_grad()
def naswot(model: nn.Module, x: Tensor) -> float:
    """``log |det K|``: how differently examples switch the rectifiers.

    ``K_ij`` is the number of rectifiers minus the number in which examples i
    and j differ; two examples that switch all of them alike make it singular,
    and the score minus infinity.

    Parameters
    ----------
    model : nn.Module
        With its rectifiers as `torch.nn.ReLU` modules.
    x : Tensor, (B, ...)

    Raises
    ------
    ValueError
        If no ``nn.ReLU`` was used: ``F.relu`` is not seen.

    References
    ----------
    Mellor, Turner, Storkey & Crowley, 2021, https://arxiv.org/abs/2006.04647

    Examples
    --------
    >>> x = torch.tensor([[1.0], [-1.0]])
    >>> naswot(nn.ReLU(), x)  # K = [[1, 0], [0, 1]]
    0.0
    """
    model = copy.deepcopy(model).train()
    codes: list[Tensor] = []

    def note(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        codes.append(output.flatten(1) > 0)

    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(note)
    model(x)
    if not codes:
        raise ValueError(
            "the network has no nn.ReLU module, whose switches are what this"
            " score counts"
        )
    on = torch.cat(codes, dim=1).double()  # (B, rectifiers)
    kernel = on @ on.T + (1 - on) @ (1 - on).T
    return float(torch.linalg.slogdet(kernel).logabsdet)
