"""Which runs can be compared: those that were tested on the same scenes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch

from pyro_compvae.analysis.runs import Run
from pyro_compvae.data import SceneSet, load_scenes
from pyro_compvae.errors import CompvaeError
from pyro_compvae.runs.config import MODEL_FIELDS, differences

ASIDE = ("lnms ", "lnms_prior.", "frozen_model ", "data.root ")
"""Fields in which the two sides of a comparison may differ, as the beginnings of phrases of `differences`."""


class ComparisonError(CompvaeError, ValueError):
    """Two runs cannot be compared."""


def check_comparable(pair: tuple[Run, Run]) -> list[str]:
    """The differences of the runs of a pair other than L-NMS, as one phrase per field.

    Evidence and ELBO are densities of the same images, and may be compared between any two models of these, also with
    another K, D or σ; but then their difference is not due to L-NMS alone.

    Raises:
        ComparisonError: for runs on other images, whose nats are not comparable.
    """
    run_0, run_plus = pair
    on_data = [
        phrase
        for phrase in differences(run_0.config, run_plus.config, ("data",))
        if not phrase.startswith((*ASIDE, "data.num_train "))
    ]
    if on_data:
        raise ComparisonError(
            f"{run_plus.path}: expected a run on the data of {run_0.path}, but {'; '.join(on_data)}. Nats and scores "
            "of other images are not comparable."
        )
    found = differences(run_0.config, run_plus.config)
    if run_0.step != run_plus.step:
        found.append(f"steps trained are {run_0.step} there and {run_plus.step} here")
    return [phrase for phrase in found if not phrase.startswith(ASIDE)]


def check_same_scenes(runs: Sequence[Run], scenes: SceneSet) -> None:
    """Refuse to compare runs on some scenes if these are not the test scenes of all of them.

    Two files of scenes may have the same name and size, and one file two places, so the scenes themselves are compared.

    Raises:
        ComparisonError: for a run with other test scenes.
        DataError: for a run whose scenes cannot be loaded.
    """
    load = cache(load_scenes)  # most runs name the same scenes
    for run in runs:
        own = load(run.config.data, "test", multi_view=run.config.multi_view)
        if own.seen != scenes.seen:
            raise ComparisonError(
                f"{run.path}: expected a run with the test scenes of {runs[0].path} ({scenes.origin}), found one with "
                f"others ({own.origin}). Nats and scores of other images are not comparable."
            )


def same_model(pair: tuple[Run, Run]) -> bool:
    """Whether both runs have the same θ, for example if only their guides were trained (``--frozen-model``)."""
    if differences(pair[0].config, pair[1].config, MODEL_FIELDS):
        return False
    weights = [run.model.state_dict() for run in pair]
    return all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
