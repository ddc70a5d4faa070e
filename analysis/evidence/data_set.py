"""The evidence of a run's scenes as data sets, and in files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
import xarray

from pyro_compvae.analysis.batches import Batches, ShowProgress, in_batches
from pyro_compvae.analysis.evidence.compute import ESTIMATORS, EvidenceConfig, certify, estimate_scenes
from pyro_compvae.analysis.results import Settings, is_of, read, save
from pyro_compvae.analysis.runs import Run
from pyro_compvae.analysis.work import work_of_evidence
from pyro_compvae.checks import check_seed
from pyro_compvae.data.scenes import SceneSet
from pyro_compvae.evidence import EvidenceEstimate, Sandwich, TransitionProgress
from pyro_compvae.evidence.estimate import estimate_from_log_weights
from pyro_compvae.repulsion import repulsion_of
from pyro_compvae.runs.lock import locked


def estimate_evidence(
    run: Run,
    scenes: SceneSet,
    config: EvidenceConfig,
    batches: Batches,
    name: str = "evidence",
    observed: bool = True,
) -> dict[str, EvidenceEstimate]:
    """Compute the estimates of `estimate_scenes` for the first scenes of a set, saved in batches; returned by name.

    Args:
        run: the run, into whose folder NAME.nc is written.
        scenes: the test scenes.
        config: the effort.
        batches: how many of the scenes, and how many at a time.
        name: the name of the file.
        observed: see `estimate_scenes`.

    Returns:
        The estimates; on workers other than the first, an empty dictionary.
    """

    def compute(start: int, stop: int, show: ShowProgress) -> xarray.Dataset:
        show.expect(work_of_evidence(config, run.model.num_slots, observed and scenes.num_views is not None))
        batch = scenes[start:stop].to(run.device)
        return weights_data(estimate_scenes(run, batch, config, show, observed, show.watch))

    views: dict[str, Any] = {} if scenes.num_views is None else {"observed": observed, "num_views": scenes.num_views}
    settings = evidence_settings(run, config, batches.seed, batch_scenes=batches.batch_scenes, **views)
    return estimates_of(in_batches(run.folder.numbers(name), compute, batches, settings, scenes))


def certify_simulated(
    run: Run,
    scenes: SceneSet,
    config: EvidenceConfig,
    num_scenes: int,
    seed: int = 0,
    progress: TransitionProgress | None = None,
) -> xarray.Dataset:
    """The sandwich of `certify`, which is kept in sandwich.nc and read from there if the settings are the same.

    Args:
        run: the run, whose folder holds the file.
        scenes: scenes whose viewpoints, if there are any, are those of the simulated scenes.
        config: the effort.
        num_scenes: the number of scenes to simulate, at most that of the viewpoints.
        seed: the seed of the random numbers.
        progress: called after every transition of the chains.

    Raises:
        LockedError: if another process computes the sandwich of this run.
    """
    check_seed(seed)
    path = run.folder.numbers("sandwich")
    cameras = scenes.part(slice(num_scenes)).cameras if run.config.multi_view else {}
    settings = evidence_settings(run, config, seed, bdmc=True, bdmc_scenes=num_scenes, scenes=cameras)
    with locked(path.with_name(".sandwich.lock")):
        if not is_of(path, settings):
            torch.manual_seed(seed)
            viewpoints = scenes[:num_scenes].to(run.device).viewpoint if run.config.multi_view else None
            num_scenes = num_scenes if viewpoints is None else len(viewpoints)
            save(path, sandwich_data(*certify(run, num_scenes, config, viewpoints, progress)), settings)
        return read(path)


def evidence_settings(run: Run, config: EvidenceConfig, seed: int, bdmc: bool = False, **more: Any) -> Settings:
    """The settings that estimates depend on besides their scenes."""
    repulsion = repulsion_of(run.model)
    if repulsion is not None:
        more |= {name: getattr(repulsion, name) for name in ("strength", "scale", "log_normaliser")}
    content = dataclasses.asdict(config)
    if not bdmc:
        content = {name: value for name, value in content.items() if not name.startswith("bdmc_")}
    return {"version": ESTIMATORS, **run.identity, "seed": seed, **more, **content}


def weights_data(estimates: Mapping[str, EvidenceEstimate]) -> xarray.Dataset:
    """The log weights of every estimate, "log_weight_NAME" (chain, draw, scene); AIS has its own number of draws."""
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
    """The estimates that `weights_data` was made from."""
    return {
        str(name).removeprefix("log_weight_"): estimate_from_log_weights(torch.from_numpy(values.values[0].copy()))
        for name, values in data.items()
    }


def sandwich_data(sandwich: Sandwich, importance: EvidenceEstimate) -> xarray.Dataset:
    """Both bounds on log p(x) of simulated scenes, and the importance estimate, in nats for every "scene"."""
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
