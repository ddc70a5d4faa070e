"""Gap ladders as data sets."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import xarray
from numpy.typing import NDArray
from torch import Tensor

from pyro_compvae.analysis.batches import Batches, ShowProgress, in_batches
from pyro_compvae.analysis.evidence.compute import ESTIMATORS, log_joint_and_posterior
from pyro_compvae.analysis.ladder.compute import LADDERS, Ladder, LadderConfig, gap_ladder
from pyro_compvae.analysis.runs import Run
from pyro_compvae.analysis.work import work_of_ladder
from pyro_compvae.data.scenes import SceneSet


def climb_ladder(run: Run, scenes: SceneSet, config: LadderConfig, batches: Batches) -> xarray.Dataset:
    """Climb the `gap_ladder` for the first scenes of a set, computed and saved in batches, as `ladder_data`.

    Args:
        run: the run, into whose folder ladder.nc is written.
        scenes: the test scenes.
        config: the effort.
        batches: how many of the scenes, and how many at a time.

    Returns:
        The numbers of all scenes; on workers other than the first, an empty data set.
    """

    def compute(start: int, stop: int, show: ShowProgress) -> xarray.Dataset:
        log_joint, q = log_joint_and_posterior(run, run.guide.arguments(scenes[start:stop].to(run.device)))
        show.expect(work_of_ladder(config))
        show.watch(log_joint)
        return ladder_data(gap_ladder(log_joint, q, config, show))

    version = {"version": (LADDERS, ESTIMATORS), **run.identity}
    settings = version | {"seed": batches.seed, "batch_scenes": batches.batch_scenes} | dataclasses.asdict(config)
    return in_batches(run.folder.numbers("ladder"), compute, batches, settings, scenes)


def ladder_data(ladder: Ladder) -> xarray.Dataset:
    """All numbers of a ladder in nats: rungs (rung, scene), gaps (gap, scene), log p̂(x) (scene), cost (rung, scene).

    The cost of a batch is divided equally among its scenes, so that batches can be joined.
    """
    rungs, gaps, errors = ladder.rungs, ladder.gaps(), ladder.standard_errors()
    failures, evidence = ladder.failures(), ladder.evidence
    B = len(evidence.log_evidence)

    def stacked(values: list[Tensor]) -> NDArray:
        return np.stack([value.cpu().numpy() for value in values])

    def cost(values: list[float]) -> NDArray:
        return np.repeat(np.array(values, dtype=float)[:, None], B, axis=1)

    slopes = [rung.slope for rung in rungs.values()]
    nothing = torch.zeros(B, dtype=torch.bool)
    numbers = {
        "rung_elbo": stacked([rung.elbo for rung in rungs.values()]),
        "rung_standard_error": stacked([rung.standard_error for rung in rungs.values()]),
        "rung_rise": stacked([slope.rise for slope in slopes]),
        "rung_rise_standard_error": stacked([slope.standard_error for slope in slopes]),
        "rung_converged": stacked([slope.converged for slope in slopes]),
        "rung_failed": stacked([failures.get(name, nothing) for name in rungs]),
    }
    numbers["rung_seconds"] = cost([rung.seconds / B for rung in rungs.values()])
    numbers["rung_evaluations"] = cost([rung.evaluations for rung in rungs.values()])
    return xarray.Dataset(
        {name: (("rung", "scene"), values) for name, values in numbers.items()}
        | {
            "gap": (("gap_name", "scene"), stacked(list(gaps.values()))),
            "gap_standard_error": (("gap_name", "scene"), stacked(list(errors.values()))),
            "log_evidence": ("scene", evidence.log_evidence.cpu().numpy()),
            "log_evidence_standard_error": ("scene", evidence.standard_error.cpu().numpy()),
            "khat": ("scene", evidence.khat.cpu().numpy()),
            "reliable": ("scene", evidence.reliable.cpu().numpy()),
            "evidence_seconds": ("scene", np.full(B, ladder.evidence_seconds / B)),
        },
        coords={"rung": list(rungs), "gap_name": list(gaps)},
    )
