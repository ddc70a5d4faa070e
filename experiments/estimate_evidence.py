"""Estimate log p(x) of a run's test scenes: ``python experiments/estimate_evidence.py RUN_DIR``.

It writes into the run folder

    evidence.nc                 log weights of every estimator (chain, draw, scene), in the group "sample_stats"
    figures/evidence.png        the estimates against the number of draws
    sandwich.nc                 with --bdmc: both bounds and the importance estimate of every simulated scene
    evidence/                   batches that are done; the same call goes on from them
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import tyro
import xarray
from torch import Tensor
from tqdm import tqdm

from analysis.evidence import ESTIMATORS, EvidenceConfig, certify, estimate_scenes
from analysis.evidence_figure import evidence_figure
from analysis.evidence_report import evidence_table, sandwich_data, sandwich_table
from analysis.runs import Run, load_run
from pyro_compvae.checkpoint import CheckpointError, atomic_path
from pyro_compvae.data import DataError, SceneSet, load_scenes
from pyro_compvae.device import allow_tf32, choose_device
from pyro_compvae.evidence import EvidenceEstimate
from pyro_compvae.evidence.estimate import estimate_from_log_weights
from pyro_compvae.workers import ALONE, WorkerError, Workers, start_workers


@dataclass
class Arguments:
    """Estimate the log-evidence of test scenes under a trained run, and say how far to believe it."""

    run_dir: tyro.conf.Positional[Path]
    """Run folder."""
    num_scenes: int = 64
    """Test scenes, the first ones."""
    batch_scenes: int = 16
    """Scenes that are estimated together, and saved together; memory grows with it and with --chunk-size."""
    evidence: tyro.conf.OmitArgPrefixes[EvidenceConfig] = field(default_factory=EvidenceConfig)
    bdmc: bool = False
    """Whether to sandwich log p(x) of scenes simulated from the model, too."""
    bdmc_scenes: int = 16
    """How many of them."""
    seed: int = 0
    """Of all draws."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    args, workers = tyro.cli(Arguments, args=arguments), ALONE
    try:
        device = choose_device(args.device)
        allow_tf32(False)
        workers = start_workers(device)
        with workers.losing_none():
            code = estimate(args, device, workers)
            workers.wait()
        return code
    except (ValueError, FloatingPointError, CheckpointError, DataError, WorkerError) as error:
        print(f"{workers.name}error: {error}", file=sys.stderr)
        return 1


def estimate(args: Arguments, device: torch.device, workers: Workers) -> int:
    """Estimate batch by batch, shared among the workers; what an interrupted call had done is not done again."""
    for name in ("num_scenes", "batch_scenes", "bdmc_scenes"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(args, name)}")
    run = load_run(args.run_dir, device)
    args.evidence.families_of(run.model.num_slots)
    scenes = load_scenes(run.config.data, "test", multi_view=run.config.guide == "mulmon")
    paths = estimate_in_batches(args, run, scenes, device, workers)
    workers.wait()
    if not workers.is_first:
        return 0
    estimates = put_together(args.run_dir / "evidence.nc", paths)
    title = f"{args.run_dir.name}, {len(estimates['guide'].log_evidence)} test scenes"
    figures = args.run_dir / "figures"
    figures.mkdir(exist_ok=True)
    evidence_figure(figures / "evidence.png", estimates, title)
    print(evidence_table(estimates, 3 * run.config.data.image_size**2 * (scenes.num_views or 1)))
    for name, result in estimates.items():
        print(f"{name}: {result.verdict()}")
    if args.bdmc:
        certify_simulated(args, run, scenes, device)
    return 0


def certify_simulated(args: Arguments, run: Run, scenes: SceneSet, device: torch.device) -> None:
    """Sandwich log p(x) of simulated scenes, seen from the viewpoints of the test scenes if there are any.

    What an earlier call with the same settings found is not computed again.
    """
    path, settings = args.run_dir / "sandwich.nc", settings_of(args, run, bdmc=True)
    if not (path.is_file() and read(path).attrs["settings"] == settings):
        torch.manual_seed(args.seed)
        viewpoints = scenes[: args.bdmc_scenes].to(device).viewpoint if run.config.guide == "mulmon" else None
        num_scenes = args.bdmc_scenes if viewpoints is None else len(viewpoints)
        with tqdm(unit="transition") as bar:

            def show(step: int, total: int, acceptance: Tensor) -> None:
                if step == 1:  # of either direction
                    bar.reset(total)
                bar.update()

            sandwich, importance = certify(run, num_scenes, args.evidence, viewpoints, show)
        save_dataset(path, sandwich_data(sandwich, importance).assign_attrs(settings=settings))
    print(sandwich_table(read(path)))


def estimate_in_batches(
    args: Arguments, run: Run, scenes: SceneSet, device: torch.device, workers: Workers
) -> list[Path]:
    """Files of all batches in the order of scenes, of which this worker has seen to its share."""
    num_scenes = min(args.num_scenes, len(scenes))
    settings = settings_of(args, run)
    folder = args.run_dir / "evidence"
    folder.mkdir(exist_ok=True)
    ends = [(start, min(start + args.batch_scenes, num_scenes)) for start in range(0, num_scenes, args.batch_scenes)]
    paths = [folder / f"scenes_{start:05d}_{stop:05d}.nc" for start, stop in ends]
    mine = workers.share(list(zip(ends, paths, strict=True)))
    with tqdm(total=sum(stop - start for (start, stop), _ in mine), unit="scene", disable=not workers.is_first) as bar:
        for (start, stop), path in mine:
            if not (path.is_file() and read(path).attrs["settings"] == settings):
                torch.manual_seed(args.seed + start)
                scene = scenes[start:stop].to(device)
                save(path, estimate_scenes(run, scene, args.evidence, bar.set_postfix_str), settings, start)
            bar.update(stop - start)
    return paths


def put_together(path: Path, batches: list[Path]) -> dict[str, EvidenceEstimate]:
    """Write the batches into one file, and read the estimates from it."""
    data = xarray.concat([read(batch) for batch in batches], dim="scene", combine_attrs="override")
    save_dataset(path, data)
    return {
        str(name).removeprefix("log_weight_"): estimate_from_log_weights(torch.from_numpy(values.values[0].copy()))
        for name, values in data.items()
    }


def settings_of(args: Arguments, run: Run, bdmc: bool = False) -> str:
    """What a batch, or the sandwich, depends on besides its scenes; with other settings it is computed again."""
    config = dataclasses.asdict(args.evidence)
    if not bdmc:
        config = {name: value for name, value in config.items() if not name.startswith("bdmc_")}
    size = {"bdmc_scenes": args.bdmc_scenes} if bdmc else {"batch_scenes": args.batch_scenes}
    return json.dumps({"version": ESTIMATORS, "step": run.step, "seed": args.seed, **size, **config})


def save(path: Path, batch: dict[str, EvidenceEstimate], settings: str, start: int) -> None:
    """Log weights of a batch, (chain, draw, scene); AIS has draws of its own number."""
    data = xarray.Dataset(
        {
            f"log_weight_{name}": (
                ("chain", f"draw_{name}" if name == "ais" else "draw", "scene"),
                e.log_weights[None].cpu().numpy(),
            )
            for name, e in batch.items()
        },
        coords={"scene": range(start, start + len(batch["guide"].log_evidence)), "chain": [0]},
        attrs={"settings": settings},
    )
    save_dataset(path, data.map(lambda values: values.astype("float64"), keep_attrs=True))


def save_dataset(path: Path, data: xarray.Dataset) -> None:
    """Write the group "sample_stats" of a NetCDF file, which ArviZ and xarray open."""
    with atomic_path(path) as temporary:
        data.to_netcdf(temporary, group="sample_stats", engine="h5netcdf")


def read(path: Path) -> xarray.Dataset:
    """What `save_dataset` wrote."""
    return xarray.load_dataset(path, group="sample_stats", engine="h5netcdf")


if __name__ == "__main__":
    sys.exit(main())
