"""Diagnose the posterior of a run: ``python experiments/diagnose.py RUN_DIR``.

It writes into the run folder, stage by stage

    posterior_guide.nc, posterior_importance.nc     draws: test scenes, from the guide, and by annealed importance
    loo.nc                                          with several views, how well each is predicted by the others
    predictive_checks.nc                            checks: PIT and residuals of every pixel of these scenes
    posterior_nuts.nc                               nuts: one of the scenes by NUTS, to hold the others against
    calibration.nc                                  calibration: ranks of scenes simulated from the model

and pictures into figures/. ArviZ and xarray open the files. What is there is not computed again.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from pyro_compvae.analysis.posterior.diagnosis import Diagnosis, DiagnosisConfig
from pyro_compvae.analysis.runs import load_run
from pyro_compvae.cli import run
from pyro_compvae.device import choose_device


@dataclass
class Arguments:
    """Draw from the posterior of test scenes, hold it against NUTS, calibrate it, and check what it predicts."""

    run_dir: tyro.conf.Positional[Path]
    """Run folder."""
    diagnosis: tyro.conf.OmitArgPrefixes[DiagnosisConfig] = field(default_factory=DiagnosisConfig)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return run(Arguments, diagnose, arguments, "interrupted; the same call goes on")


def diagnose(args: Arguments) -> None:
    """Run all stages on one run."""
    run = load_run(args.run_dir, choose_device(args.device))
    for found in Diagnosis(args.diagnosis, run).run_stages():
        print(found, flush=True)


if __name__ == "__main__":
    sys.exit(main())
