r"""L-NMS as a prior: slots that repel one another.

    p̃(z) = N(z; 0, I) exp(s · L_NMS(z)) / Z(K, D, σ_c, s)

The paper adds s · L_NMS to a training objective and never normalises it. Normalised, it is the prior of a model like
any other, whose evidence can be compared with that of independent slots. Z depends on no weight, so `repulsive`
estimates it once, and the model that it returns never does.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from pyro_compvae.errors import ArgumentError
from pyro_compvae.lnms import LnmsForm, strength_of_sum
from pyro_compvae.models import SlotModel
from pyro_compvae.normaliser import (
    LEAPFROG_STEPS,
    RepulsionAnnealing,
    UnnormalisedRepulsion,
    estimate_log_normaliser,
)

SAMPLING_TEMPERATURES = 40
"""Number of temperatures of the annealing that makes draws."""


class RepulsivePrior(TorchDistribution):
    """p̃(z) of K exchangeable slots of D dimensions, event (K, D); log-densities are in nats.

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
        """log p̃(z) in nats, for z (..., K, D)."""
        slots = UnnormalisedRepulsion((self.num_slots, self.latent_dim), self.strength, self.scale)
        return slots(value) - self.log_normaliser

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw the ends of chains annealed from N(0, I), one chain for each draw, as close to p̃ as the chains get."""
        shape = self._extended_shape(sample_shape)
        count = math.prod(shape[:-2])
        effort = (count, SAMPLING_TEMPERATURES, LEAPFROG_STEPS)
        chains = RepulsionAnnealing(self.num_slots, self.latent_dim, self.strength, self.scale, *effort).run()
        return chains.z[:, 0].reshape(shape).to(self.like)


@dataclass(frozen=True)
class Repulsion:
    """A maker of the `RepulsivePrior` of a model's slots, from K, D, s, σ_c and their log Z in nats."""

    num_slots: int
    latent_dim: int
    strength: float
    scale: float
    log_normaliser: float

    def __call__(self, zeros: Tensor) -> RepulsivePrior:
        """p̃(z) on the device and in the precision of zeros (K, D).

        Raises:
            ArgumentError: for another K or D.
        """
        if zeros.shape != (self.num_slots, self.latent_dim):
            raise ArgumentError(
                f"num_slots: expected {self.num_slots} slots of {self.latent_dim} dimensions, as for log Z, got "
                f"{tuple(zeros.shape)}. Set num_slots first, then call repulsive again."
            )
        size = (self.num_slots, self.latent_dim)
        return RepulsivePrior(*size, self.strength, self.scale, self.log_normaliser, like=zeros)


Model = TypeVar("Model", bound=SlotModel)


def repulsive(model: Model, strength: float, scale: float = 0.1, form: LnmsForm = "sum") -> Model:
    """The same model, sharing its weights, with slots that repel one another: p(x | z) p̃(z) of `RepulsivePrior`.

    This is what L-NMS would be if it were part of the model. The evidence of such a model can be compared with that of
    independent slots. log Z is estimated here, in seconds, or read from `cache_path`.

    Args:
        model: a model of independent slots, which stays as it is.
        strength, scale: s and σ_c of L-NMS.
        form: the form of L-NMS, "sum" or "mean".

    Raises:
        ArgumentError: for a negative strength, a scale that is not positive, or the form "presence", which is no
            density.
    """
    other = copy.copy(model)
    size = (model.num_slots, model.latent_dim)
    strength = strength_of_sum(strength, form, model.num_slots)
    log_normaliser = estimate_log_normaliser(*size, strength, scale).log_normaliser
    other.make_prior = Repulsion(*size, strength, scale, log_normaliser)
    return other


def repulsion_of(model: nn.Module) -> Repulsion | None:
    """The repulsion of a model's slots, or None where they are independent, as in models that are not ours."""
    make_prior = getattr(model, "make_prior", None)
    return make_prior if isinstance(make_prior, Repulsion) else None
