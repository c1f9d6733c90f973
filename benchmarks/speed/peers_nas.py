# SPDX-License-Identifier: MIT
"""The peers of `nas.py`: where they come from, and how each one proposes
architectures of a table.

A function that proposes makes a fresh search, and returns the scores that it
was told.
"""

import logging
from typing import Any

import peers

import metabook as mb

# with what they import beyond the book's environment
REQUIREMENTS = {
    "NNI": ["nni==3.0", "json_tricks", "schema", "typeguard", "colorama"],
    "optuna": ["optuna==5.0.0", "colorlog"],
}
MODULES = {
    "NNI": "nni.algorithms.hpo.evolution_tuner",
    "optuna": "optuna.samplers",
}


def prepare() -> None:
    """Fetch the peers that are missing; `found` tells later which of them could
    be had.
    """
    peers.FOLDER.mkdir(parents=True, exist_ok=True)
    for name, reply in found().items():
        if "error" in reply:
            peers.install(*REQUIREMENTS[name])


def found() -> dict[str, dict[str, str]]:
    """Import every peer: {name: {"version": ...}} or {name: {"error": why
    not}}. Their logs say warnings only.
    """
    answer = peers.available(MODULES)
    if "error" not in answer["NNI"]:
        logging.getLogger("nni").setLevel(logging.WARNING)
        logging.getLogger(MODULES["NNI"]).setLevel(logging.WARNING)
    if "error" not in answer["optuna"]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
    return answer


def nni_evolution(
    table: mb.nas.Table, proposals: int, population: int
) -> list[float]:
    """EvolutionTuner, called as NNI's dispatcher calls it; of two random
    individuals the better has a child.
    """
    from nni.algorithms.hpo.evolution_tuner import EvolutionTuner

    tuner = EvolutionTuner(optimize_mode="maximize", population_size=population)
    tuner.update_search_space(
        {
            e: {"_type": "choice", "_value": list(ops)}
            for e, ops in table.space.decisions.items()
        }
    )
    scores = []
    for i in range(proposals):
        (parameters,) = tuner.generate_multiple_parameters(
            [i], st_callback=None
        )
        scores.append(
            table.valid(
                tuple(parameters[edge] for edge in table.space.decisions)
            )
        )
        tuner.receive_trial_result(i, parameters, scores[-1])
        tuner.trial_end(i, True)
    return scores


def optuna_sampler(
    table: mb.nas.Table, proposals: int, sampler: str, **options: Any
) -> list[float]:
    """A study in memory, by ask and tell; ``optuna.samplers.NAME`` with its
    defaults beside the given options.
    """
    import optuna

    study = optuna.create_study(
        direction="maximize",
        sampler=getattr(optuna.samplers, sampler)(**options),
    )
    scores = []
    for _ in range(proposals):
        trial = study.ask()
        arch = tuple(
            trial.suggest_categorical(edge, ops)
            for edge, ops in table.space.decisions.items()
        )
        scores.append(table.valid(arch))
        study.tell(trial, scores[-1])
    return scores
