"""log Z of slots that repel one another, N(z; 0, I) exp(s · L_NMS(z)): annealed once, and kept in a cache."""

from __future__ import annotations

import json
import math
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_compvae.checks import check_counts
from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence.annealing.chains import Annealing, annealed
from pyro_compvae.evidence.annealing.config import AnnealingConfig
from pyro_compvae.evidence.proposals.symmetric import standard_normal_proposal
from pyro_compvae.lnms import lnms_log_density
from pyro_compvae.runs.files import write_text

CHAINS, TEMPERATURES, LEAPFROG_STEPS = 2048, 200, 5
"""Effort of the annealing that estimates log Z, which takes some seconds."""

PILOT_CHAINS = 32
"""Chains that find temperatures and step sizes; they cost little, because the density is cheap."""

ANNEALING = 1
"""Version of the annealing. Raise it whenever the same settings give other numbers, so that cached ones are computed
again."""


class Normaliser(NamedTuple):
    """log Z in nats, its standard error, and k̂ of the weights behind both, which are reliable if k̂ is below 0.7."""

    log_normaliser: float
    standard_error: float
    khat: float


class UnnormalisedRepulsion(NamedTuple):
    """log N(z; 0, I) + s L_NMS(z). It is not a Pyro program, because it is evaluated in the middle of one."""

    event_shape: tuple[int, ...]
    strength: float
    scale: float

    def __call__(self, z: Tensor) -> Tensor:
        """Evaluate slots z (..., K, D); the result (...) is in nats."""
        log_normal = -0.5 * (z.square() + math.log(2 * math.pi)).sum((-2, -1))
        return log_normal + self.strength * lnms_log_density(z, self.scale)


class RepulsionAnnealing(NamedTuple):
    """A prior, and the effort of the annealing that leads to it."""

    num_slots: int
    latent_dim: int
    strength: float
    scale: float
    num_chains: int
    num_temperatures: int
    leapfrog_steps: int

    def run(self) -> Annealing:
        """Anneal the slots of one scene from N(0, I) to N(0, I) exp(s L_NMS)."""
        size = (self.num_slots, self.latent_dim)
        config = AnnealingConfig(
            num_chains=self.num_chains,
            num_temperatures=self.num_temperatures,
            leapfrog_steps=self.leapfrog_steps,
            pilot_chains=PILOT_CHAINS,
            chunk_size=self.num_chains,
        )
        density = UnnormalisedRepulsion(size, self.strength, self.scale)
        return annealed(density, standard_normal_proposal(1, *size), config)


def estimate_log_normaliser(
    num_slots: int,
    latent_dim: int,
    strength: float,
    scale: float = 0.1,
    num_chains: int = CHAINS,
    num_temperatures: int = TEMPERATURES,
    leapfrog_steps: int = LEAPFROG_STEPS,
) -> Normaliser:
    """Estimate log Z(K, D, σ_c, s) by annealing s from 0 with chains of HMC, and leave the random stream as it was.

    An estimate that was made before with the same settings is read from `cache_path`.

    Args:
        num_slots, latent_dim: K, D.
        strength, scale: s and σ_c of L-NMS.
        num_chains, num_temperatures, leapfrog_steps: the effort of the annealing.

    Raises:
        ValueError: for counts below 1, K below 2, a negative strength or a scale that is not positive.
    """
    check_counts(latent_dim=latent_dim, num_chains=num_chains, num_temperatures=num_temperatures)
    if num_slots < 2:
        raise ArgumentError(f"num_slots: expected at least 2, of which one repels the other, got {num_slots}")
    if not strength >= 0:
        raise ArgumentError(f"strength: expected zero or more, got {strength}")
    if not scale > 0:
        raise ArgumentError(f"scale: expected a positive standard deviation, got {scale}")
    if strength == 0:
        return Normaliser(0.0, 0.0, -math.inf)
    sizes = (num_slots, latent_dim, float(strength), float(scale))
    return _cached(RepulsionAnnealing(*sizes, num_chains, num_temperatures, leapfrog_steps))


def cache_path() -> Path:
    """Where normalisers are kept: pyro_compvae/log_normalisers.json in $XDG_CACHE_HOME, or in ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "pyro_compvae" / "log_normalisers.json"


@lru_cache(maxsize=256)
def _cached(annealing: RepulsionAnnealing) -> Normaliser:
    key = f"version {ANNEALING}, " + ", ".join(f"{name} {value}" for name, value in annealing._asdict().items())
    known = _read_cache()
    if key not in known:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # torch.manual_seed would seed GPUs as well
            estimate = annealing.run().estimate
        numbers = (estimate.log_evidence, estimate.standard_error, estimate.khat)
        known = _read_cache() | {key: [float(number) for number in numbers]}
        try:
            cache_path().parent.mkdir(parents=True, exist_ok=True)
            write_text(cache_path(), json.dumps(known, indent=1) + "\n")
        except OSError:
            pass  # a cache that cannot be written costs seconds, not results
    return Normaliser(*known[key])


def _read_cache() -> dict[str, Any]:
    try:
        known = json.loads(cache_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):  # there is no cache yet, or it is damaged and will be written anew
        return {}
    return known if isinstance(known, dict) else {}
