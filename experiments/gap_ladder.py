"""Divide the gap between a run's ELBO and log p(x) into named parts: ``python experiments/gap_ladder.py RUN_DIR``.

It writes these files into the run folder:

    ladder.nc                   every rung, gap and log p̂(x) of every scene, in the group "sample_stats"
    figures/ladder.png          the parts of the gap as stacked bars, for every scene and for their mean
    ladder/                     batches that are done, from which the same call continues
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from pyro_compvae.analysis.ladder.compute import LadderConfig
from pyro_compvae.analysis.runs import load_run
from pyro_compvae.cli import run
from pyro_compvae.device import choose_device
from pyro_compvae.runs.files import check_writable
from pyro_compvae.training.distributed import joined_workers


@dataclass
class Arguments:
    """Fit better and better posteriors to test scenes under a trained run, and say what each of them gains."""

    run_dir: tyro.conf.Positional[Path]
    """The run folder."""
    data_root: Path | None = None
    """Where the data are now, if they have moved since training: the file of scenes, or the folder of the data set."""
    num_scenes: int = 32
    """How many test scenes to use, from the first on."""
    batch_scenes: int = 16
    """How many scenes are fitted and saved together; memory grows with it and with --chunk-size."""
    ladder: tyro.conf.OmitArgPrefixes[LadderConfig] = field(default_factory=LadderConfig)
    quick: bool = False
    """A first look in a minute or two of a CPU core, instead of a quarter of an hour: other defaults, namely 4 scenes,
    few steps and no flow. Options given beside it are kept."""
    seed: int = 0
    """The seed of all random numbers."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device to compute on; auto takes a GPU if there is one."""


QUICK = LadderConfig(
    approach_steps=50,
    fit_steps=20,
    flow_steps=0,
    num_samples=300,
    symmetry_samples=50,
    cover_steps=10,
    ais_chains=32,
    ais_temperatures=10,
)
"""A small effort, to see a ladder at all; its fits may not have arrived, which its table says."""

QUICKLY = Arguments(tyro.MISSING, num_scenes=4, ladder=QUICK, quick=True)
"""The defaults with --quick."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return run(Arguments, climb, arguments, "interrupted; the same call continues", QUICKLY)


def climb(args: Arguments) -> None:
    """Climb the ladder for all scenes, batch by batch, shared among the workers."""
    from pyro_compvae.analysis import Batches, climb_ladder
    from pyro_compvae.analysis.ladder.figure import ladder_figure
    from pyro_compvae.analysis.ladder.table import ladder_table

    device = choose_device(args.device)
    with joined_workers(device) as workers:
        batches = Batches(args.num_scenes, args.batch_scenes, args.seed, workers)
        run = load_run(args.run_dir, device, data_root=args.data_root)
        check_writable(run.path)
        data = climb_ladder(run, run.scenes("test"), args.ladder, batches)
        if workers.is_first:
            title = f"{args.run_dir.name}, {data.sizes['scene']} test scenes"
            ladder_figure(run.folder.figure("ladder.png"), data, title)
            print(ladder_table(data))


if __name__ == "__main__":
    sys.exit(main())
