# SPDX-License-Identifier: MIT
"""Training mode for all modules but those that were put in evaluation mode,
such as a frozen batch norm.
"""

from torch import nn

from metabook.learner.protocol import Learner

__all__ = ["put_in_training_mode", "stay_in_evaluation_mode"]


def stay_in_evaluation_mode(learner: Learner) -> list[str]:
    """The modules that training leaves in evaluation mode.

    They are those that were put in it alone; and, of a learner that is in it as
    a whole, those without a weight that is trained.

    Examples
    --------
    >>> import metabook as mb
    >>> learner = mb.ProtoNet(nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
    >>> learner.embedding[1].eval()
    Dropout(p=0.5, inplace=False)
    >>> stay_in_evaluation_mode(learner)
    ['embedding.1']
    """
    modules = dict(learner.named_modules())
    frozen = [f"{name}." for name, m in modules.items() if _is_frozen(m)]
    return [
        name
        for name, module in modules.items()
        if not module.training
        and (learner.training or f"{name}.".startswith(tuple(frozen)))
    ]


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def put_in_training_mode(learner: Learner, but: list[str]) -> None:
    """Training mode for all modules ``but`` these."""
    learner.train()
    for name in but:
        learner.get_submodule(name).training = False
