"""Estimate log p(x) of a run's test scenes: ``python experiments/estimate_evidence.py RUN_DIR``."""

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
from tqdm import tqdm

from analysis.evidence import EvidenceConfig, estimate_scenes, evidence_table
from analysis.runs import load_run
from pyro_compvae.checkpoint import CheckpointError, atomic_path
from pyro_compvae.data import DataError, load_scenes
from pyro_compvae.device import choose_device
from pyro_compvae.evidence.estimate import EvidenceEstimate, estimate_from_log_weights

BATCH = 16
"""Scenes that are estimated together, and saved together."""


@dataclass
class Arguments:
    """Estimate the log-evidence of test scenes under a trained run, and say how far to believe it."""

    run_dir: tyro.conf.Positional[Path]
    """Run folder."""
    num_scenes: int = 64
    """Test scenes, the first ones."""
    evidence: tyro.conf.OmitArgPrefixes[EvidenceConfig] = field(default_factory=EvidenceConfig)
    seed: int = 0
    """Of all draws."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    try:
        return estimate(tyro.cli(Arguments, args=arguments))
    except (ValueError, CheckpointError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def estimate(args: Arguments) -> int:
    """Estimate batch by batch; what an interrupted call had done is not done again."""
    if args.num_scenes < 1:
        raise ValueError(f"--num-scenes: expected at least 1, got {args.num_scenes}")
    device = choose_device(args.device)
    run = load_run(args.run_dir, device)
    scenes = load_scenes(run.config.data, "test", multi_view=run.config.guide == "mulmon")
    num_scenes = min(args.num_scenes, len(scenes))
    settings = {"step": run.step, "seed": args.seed, **dataclasses.asdict(args.evidence)}
    folder = args.run_dir / "evidence"
    folder.mkdir(exist_ok=True)
    batches = []
    for start in tqdm(range(0, num_scenes, BATCH), "batches of scenes"):
        stop = min(start + BATCH, num_scenes)
        path = folder / f"scenes_{start:05d}_{stop:05d}.nc"
        if not (path.is_file() and json.loads(read(path).attrs["settings"]) == settings):
            torch.manual_seed(args.seed + start)
            batch = estimate_scenes(run, scenes[start:stop].to(device), args.evidence)
            save(path, batch, settings, start)
        batches.append(read(path))
    data = xarray.concat(batches, dim="scene", combine_attrs="override")
    save_dataset(args.run_dir / "evidence.nc", data)
    estimates = {
        str(name).removeprefix("log_weight_"): estimate_from_log_weights(torch.from_numpy(values.values[0].copy()))
        for name, values in data.items()
    }
    views = scenes.num_views or 1
    print(evidence_table(estimates, 3 * run.config.data.image_size**2 * views))
    for name, result in estimates.items():
        print(f"{name}: {result.verdict()}")
    return 0


def save(path: Path, batch: dict[str, EvidenceEstimate], settings: dict[str, int], start: int) -> None:
    """Log weights of a batch, (chain, draw, scene); AIS has draws of its own number."""
    data = xarray.Dataset(
        {
            f"log_weight_{name}": (("chain", f"draw_{name}" if name == "ais" else "draw", "scene"), e.log_weights[None])
            for name, e in batch.items()
        },
        coords={"scene": range(start, start + len(batch["guide"].log_evidence)), "chain": [0]},
        attrs={"settings": json.dumps(settings)},
    )
    save_dataset(path, data.map(lambda values: values.astype("float64")))


def save_dataset(path: Path, data: xarray.Dataset) -> None:
    """Write the group "sample_stats" of a NetCDF file, which ArviZ and xarray open."""
    with atomic_path(path) as temporary:
        data.to_netcdf(temporary, group="sample_stats", engine="h5netcdf")


def read(path: Path) -> xarray.Dataset:
    """What `save_dataset` wrote."""
    return xarray.load_dataset(path, group="sample_stats", engine="h5netcdf")


if __name__ == "__main__":
    sys.exit(main())
