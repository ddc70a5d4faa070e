"""The stages of a diagnosis, and their effort."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from pyro_compvae.checks import check_counts, check_seed
from pyro_compvae.errors import ArgumentError

Stage = Literal["draws", "checks", "nuts", "calibration"]

NO_COUNTS = ("seed", "nuts_scene")


@dataclass(frozen=True)
class DiagnosisConfig:
    """The stages of a diagnosis, and their effort."""

    stages: tuple[Stage, ...] = get_args(Stage)
    """The stages to run; checks and nuts use the draws of the stage draws."""
    num_scenes: int = 16
    """How many test scenes to use, from the first on."""
    num_draws: int = 250
    """Number of draws of every chain, from the guide, from importance and from NUTS."""
    num_chains: int = 4
    """Number of chains of every source, two or more so that they can be compared."""
    ais_chains: int = 128
    """Number of annealed chains per scene, whose ends importance resamples."""
    ais_temperatures: int = 40
    """Number of temperatures of these chains."""
    fit_steps: int = 150
    """Natural-gradient steps on the ELBO of a scene, for the fit from which chains start."""
    cover_steps: int = 50
    """Further steps that make the fit cover more of the posterior."""
    nuts_scene: int | None = None
    """The scene for NUTS; by default the one with the smallest k̂ of importance, so that both can agree."""
    warmup_steps: int = 200
    """Number of warm-up steps of NUTS per chain."""
    simulated_scenes: int = 128
    """Number of scenes that calibration simulates."""
    simulated_chains: int = 64
    """Number of annealed chains for each simulated scene."""
    simulated_temperatures: int = 20
    """Number of temperatures of these chains."""
    seed: int = 0
    """The seed of all random numbers."""

    def __post_init__(self) -> None:
        counts = dataclasses.asdict(self)
        check_counts(**{name: value for name, value in counts.items() if type(value) is int and name not in NO_COUNTS})
        check_seed(self.seed)
        if self.num_chains < 2:
            raise ArgumentError("num_chains: expected at least 2, to be compared, got 1")
