"""Evidence of a run's scenes as data sets, and in files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import torch
import xarray

from pyro_compvae.analysis.evidence.compute import ESTIMATORS, EvidenceConfig, estimate_scenes
from pyro_compvae.analysis.results import ShowProgress, in_batches
from pyro_compvae.analysis.runs import Run
from pyro_compvae.data.scenes import SceneSet
from pyro_compvae.evidence import EvidenceEstimate, Sandwich
from pyro_compvae.evidence.estimate import estimate_from_log_weights
from pyro_compvae.repulsion import repulsion_of
from pyro_compvae.training.distributed import ALONE, Workers


def estimate_evidence(
    run: Run,
    scenes: SceneSet,
    config: EvidenceConfig,
    num_scenes: int,
    batch_scenes: int = 16,
    seed: int = 0,
    name: str = "evidence",
    workers: Workers = ALONE,
    observed: bool = True,
) -> dict[str, EvidenceEstimate]:
    """Estimates of `estimate_scenes` for the first scenes of a set, by name, computed and saved in batches.

    Args:
        run: the run, in whose folder NAME.nc is written.
        scenes: of which the first ``num_scenes`` are taken, or all if there are fewer.
        config: how hard to try.
        num_scenes, batch_scenes, seed, workers: as in `in_batches`.
        name: of the file.
        observed: see `estimate_scenes`.

    Returns:
        The estimates; on workers but the first, nothing.
    """

    def compute(start: int, stop: int, show: ShowProgress) -> xarray.Dataset:
        return weights_data(estimate_scenes(run, scenes[start:stop].to(run.device), config, show, observed))

    views: dict[str, Any] = {} if scenes.num_views is None else {"observed": observed, "num_views": scenes.num_views}
    settings = evidence_settings(run, config, seed, batch_scenes=batch_scenes, **views)
    num_scenes = min(num_scenes, len(scenes))
    path = run.folder.numbers(name)
    return estimates_of(in_batches(path, compute, num_scenes, batch_scenes, settings, seed, workers))


def evidence_settings(run: Run, config: EvidenceConfig, seed: int, bdmc: bool = False, **more: float) -> str:
    """What estimates depend on besides their scenes."""
    repulsion = repulsion_of(run.model)
    if repulsion is not None:
        more |= {"strength": repulsion.strength, "scale": repulsion.scale}
    content = dataclasses.asdict(config)
    if not bdmc:
        content = {name: value for name, value in content.items() if not name.startswith("bdmc_")}
    return json.dumps({"version": ESTIMATORS, **run.identity, "seed": seed, **more, **content})


def weights_data(estimates: Mapping[str, EvidenceEstimate]) -> xarray.Dataset:
    """Log weights of every estimate, "log_weight_NAME" (chain, draw, scene); AIS has draws of its own number."""
    return xarray.Dataset(
        {
            f"log_weight_{name}": (
                ("chain", f"draw_{name}" if name == "ais" else "draw", "scene"),
                estimate.log_weights[None].double().cpu().numpy(),
            )
            for name, estimate in estimates.items()
        },
        coords={"chain": [0]},
    )


def estimates_of(data: xarray.Dataset) -> dict[str, EvidenceEstimate]:
    """The estimates that `weights_data` was made of."""
    return {
        str(name).removeprefix("log_weight_"): estimate_from_log_weights(torch.from_numpy(values.values[0].copy()))
        for name, values in data.items()
    }


def sandwich_data(sandwich: Sandwich, importance: EvidenceEstimate) -> xarray.Dataset:
    """Both bounds on log p(x) of simulated scenes, and the importance estimate, nats, for every "scene"."""
    numbers = {
        "lower": sandwich.lower,
        "upper": sandwich.upper,
        "width_standard_error": sandwich.standard_error,
        "importance": importance.log_evidence,
        "importance_standard_error": importance.standard_error,
        "khat": importance.khat,
        "reliable": importance.reliable,
    }
    return xarray.Dataset({name: ("scene", values.cpu().numpy()) for name, values in numbers.items()})
