"""Diagnose the posterior of a run: ``python experiments/diagnose.py RUN_DIR``.

It writes these files into the run folder, stage by stage:

    posterior_guide.nc, posterior_importance.nc     draws: test scenes, from the guide, and by annealed importance
    loo.nc                                          with several views, how well each is predicted by the others
    predictive_checks.nc                            checks: PIT and residuals of every pixel of these scenes
    posterior_nuts.nc                               nuts: one of the scenes by NUTS, with which the others are compared
    calibration.nc                                  calibration: ranks of scenes simulated from the model

Pictures go into figures/. ArviZ and xarray open the files. Files that exist already are not computed again.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from pyro_compvae.analysis.posterior.diagnosis_config import DiagnosisConfig
from pyro_compvae.analysis.runs import load_run
from pyro_compvae.cli import run
from pyro_compvae.device import choose_device
from pyro_compvae.runs.files import check_writable


@dataclass
class Arguments:
    """Draw from the posterior of test scenes, compare it with NUTS, calibrate it, and check its predictions."""

    run_dir: tyro.conf.Positional[Path]
    """The run folder."""
    data_root: Path | None = None
    """Where the data are now, if they have moved since training: the file of scenes, or the folder of the data set."""
    diagnosis: tyro.conf.OmitArgPrefixes[DiagnosisConfig] = field(default_factory=DiagnosisConfig)
    quick: bool = False
    """A first look in a few minutes of a CPU core, instead of 45: other defaults, namely 4 test scenes, 16
    simulated ones, and fewer draws, steps and chains. Options given beside it are kept."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device to compute on; auto takes a GPU if there is one."""


QUICK = DiagnosisConfig(
    num_scenes=4,
    num_draws=100,
    num_chains=2,
    ais_chains=64,
    ais_temperatures=20,
    fit_steps=100,
    cover_steps=25,
    warmup_steps=100,
    simulated_scenes=16,
    simulated_chains=32,
    simulated_temperatures=10,
)
"""A small effort, for a first look."""

QUICKLY = Arguments(tyro.MISSING, diagnosis=QUICK, quick=True)
"""The defaults with --quick."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return run(Arguments, diagnose, arguments, "interrupted; the same call continues", QUICKLY)


def diagnose(args: Arguments) -> None:
    """Run the stages asked for on one run, and print their findings."""
    from pyro_compvae.analysis.posterior.diagnosis import Diagnosis

    run = load_run(args.run_dir, choose_device(args.device), data_root=args.data_root)
    check_writable(run.path)
    for found in Diagnosis(args.diagnosis, run).run_stages():
        print(found, flush=True)


if __name__ == "__main__":
    sys.exit(main())
