r"""L-NMS as a prior: slots that repel one another.

    p̃(z) = N(z; 0, I) exp(s · L_NMS(z)) / Z(K, D, σ_c, s)

The paper adds s · L_NMS to a training objective and never normalises it. Normalised it is a model like any other, whose
evidence can be held against that of independent slots. Z depends on no weight, so `repulsive` estimates it once, and
the model that it returns never does.
"""

from __future__ import annotations

import copy
import json
import math
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Any, NamedTuple, TypeVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from pyro_compvae.checks import check_counts
from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence.annealing.chains import Annealing, annealed
from pyro_compvae.evidence.annealing.config import AnnealingConfig
from pyro_compvae.evidence.proposals.symmetric import standard_normal_proposal
from pyro_compvae.lnms import lnms_log_density
from pyro_compvae.models import SlotModel
from pyro_compvae.runs.files import write_text

CHAINS, TEMPERATURES, LEAPFROG_STEPS = 2048, 200, 5
"""Effort of the annealing behind log Z: some seconds."""

SAMPLING_TEMPERATURES = 40
"""Temperatures of the annealing behind draws."""

PILOT_CHAINS = 32
"""Chains that find temperatures and step sizes: they cost little, with a density this cheap."""


ANNEALING = 1
"""Version of the annealing, to be raised whenever the same settings come to mean other numbers: what is in caches is
computed again."""


class Normaliser(NamedTuple):
    """log Z in nats, its standard error, and k̂ of the weights behind both, below 0.7 if they can be relied on."""

    log_normaliser: float
    standard_error: float
    khat: float


class RepulsivePrior(TorchDistribution):
    """p̃(z) of K slots of D dimensions, event (K, D), in nats; exchangeable.

    Args:
        num_slots, latent_dim: K, D.
        strength, scale: s and σ_c of L-NMS.
        log_normaliser: log Z, by default that of `estimate_log_normaliser`.
        like: a tensor of the dtype and on the device of the draws.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 2)
    has_rsample = False

    def __init__(
        self,
        num_slots: int,
        latent_dim: int,
        strength: float,
        scale: float = 0.1,
        log_normaliser: float | None = None,
        like: Tensor | None = None,
        batch_shape: torch.Size = torch.Size(),  # noqa: B008
    ) -> None:
        self.strength, self.scale = strength, scale
        if log_normaliser is None:
            log_normaliser = estimate_log_normaliser(num_slots, latent_dim, strength, scale).log_normaliser
        self.log_normaliser = log_normaliser
        self.num_slots, self.latent_dim = num_slots, latent_dim
        self.like = torch.empty(0) if like is None else like
        super().__init__(batch_shape, torch.Size((num_slots, latent_dim)), validate_args=False)

    def expand(self, batch_shape: Any, _instance: object = None) -> RepulsivePrior:
        """The same prior for another batch of scenes."""
        size, shape = (self.num_slots, self.latent_dim), torch.Size(batch_shape)
        return RepulsivePrior(*size, self.strength, self.scale, self.log_normaliser, self.like, shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p̃(z): z (..., K, D) → (...)."""
        slots = _Slots((self.num_slots, self.latent_dim), self.strength, self.scale)
        return slots(value) - self.log_normaliser

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Ends of chains annealed from N(0, I), one for each draw: as close to p̃ as the chains got."""
        shape = self._extended_shape(sample_shape)
        count = math.prod(shape[:-2])
        effort = (count, SAMPLING_TEMPERATURES, LEAPFROG_STEPS)
        chains = _Annealed(self.num_slots, self.latent_dim, self.strength, self.scale, *effort).run()
        return chains.z[:, 0].reshape(shape).to(self.like)


@dataclass(frozen=True)
class Repulsion:
    """What makes the `RepulsivePrior` of a model's slots: K, D, s, σ_c and log Z in nats, which belongs to these."""

    num_slots: int
    latent_dim: int
    strength: float
    scale: float
    log_normaliser: float

    def __call__(self, zeros: Tensor) -> RepulsivePrior:
        """p̃(z), on the device and of the precision of zeros (K, D).

        Raises:
            ArgumentError: for another K or D.
        """
        if zeros.shape != (self.num_slots, self.latent_dim):
            raise ArgumentError(
                f"num_slots: expected {self.num_slots} slots of {self.latent_dim} dimensions, which log Z is of, got "
                f"{tuple(zeros.shape)}. Set num_slots first, then call repulsive again."
            )
        size = (self.num_slots, self.latent_dim)
        return RepulsivePrior(*size, self.strength, self.scale, self.log_normaliser, like=zeros)


Model = TypeVar("Model", bound=SlotModel)


def repulsive(model: Model, strength: float, scale: float = 0.1) -> Model:
    """The same model, sharing its weights, with slots that repel one another: p(x | z) p̃(z) of `RepulsivePrior`.

    This is what L-NMS would be were it part of the model. The evidence of such a model is a proper number, comparable
    with that of independent slots. log Z is estimated here, in seconds, or read from `cache_path`.

    Args:
        model: left as it is.
        strength, scale: s and σ_c of L-NMS.

    Raises:
        ArgumentError: for a negative strength or a scale that is not positive.
    """
    other = copy.copy(model)
    size = (model.num_slots, model.latent_dim)
    log_normaliser = estimate_log_normaliser(*size, strength, scale).log_normaliser
    other.make_prior = Repulsion(*size, strength, scale, log_normaliser)
    return other


def repulsion_of(model: nn.Module) -> Repulsion | None:
    """The repulsion of a model's slots, or None where they are independent, as in models that are not ours."""
    make_prior = getattr(model, "make_prior", None)
    return make_prior if isinstance(make_prior, Repulsion) else None


def estimate_log_normaliser(
    num_slots: int,
    latent_dim: int,
    strength: float,
    scale: float = 0.1,
    num_chains: int = CHAINS,
    num_temperatures: int = TEMPERATURES,
    leapfrog_steps: int = LEAPFROG_STEPS,
) -> Normaliser:
    """log Z(K, D, σ_c, s) by annealing s from 0, with chains of HMC; the random stream is left as it was.

    What was estimated once, with the same settings, is read from `cache_path`.

    Args:
        num_slots, latent_dim: K, D.
        strength, scale: s and σ_c of L-NMS.
        num_chains, num_temperatures, leapfrog_steps: of the annealing.

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
    return _cached(_Annealed(*sizes, num_chains, num_temperatures, leapfrog_steps))


def cache_path() -> FilePath:
    """Where normalisers are kept: pyro_compvae/log_normalisers.json in $XDG_CACHE_HOME, or in ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or FilePath.home() / ".cache"
    return FilePath(root) / "pyro_compvae" / "log_normalisers.json"


class _Annealed(NamedTuple):
    """A prior, and what is done to anneal to it."""

    num_slots: int
    latent_dim: int
    strength: float
    scale: float
    num_chains: int
    num_temperatures: int
    leapfrog_steps: int

    def run(self) -> Annealing:
        """Chains from N(0, I) to N(0, I) exp(s L_NMS), of one scene."""
        size = (self.num_slots, self.latent_dim)
        config = AnnealingConfig(
            num_chains=self.num_chains,
            num_temperatures=self.num_temperatures,
            leapfrog_steps=self.leapfrog_steps,
            pilot_chains=PILOT_CHAINS,
            chunk_size=self.num_chains,
        )
        return annealed(_Slots(size, self.strength, self.scale), standard_normal_proposal(1, *size), config)


@lru_cache(maxsize=256)
def _cached(annealed: _Annealed) -> Normaliser:
    key = f"version {ANNEALING}, " + ", ".join(f"{name} {value}" for name, value in annealed._asdict().items())
    known = _read_cache()
    if key not in known:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # and not torch's own function, which seeds GPUs as well
            estimate = annealed.run().estimate
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
    except (OSError, ValueError):  # none yet, or damaged: it will be written anew
        return {}
    return known if isinstance(known, dict) else {}


class _Slots(NamedTuple):
    """log N(z; 0, I) + s L_NMS(z); no Pyro program, as draws are made in the middle of one."""

    event_shape: tuple[int, ...]
    strength: float
    scale: float

    def __call__(self, z: Tensor) -> Tensor:
        log_normal = -0.5 * (z.square() + math.log(2 * math.pi)).sum((-2, -1))
        return log_normal + self.strength * lnms_log_density(z, self.scale)
