"""Distributions from which the slots of a batch of scenes are drawn, made symmetric under permutations of the slots.

The posterior of K exchangeable slots has K! copies of every mode, and inference finds one of them. Importance sampling
from one copy misses up to log K! nats however many draws there are (Lee & Robert, arXiv 1311.6000). The symmetrised
proposal q̄(z) = 1/K! Σ_π q(z_π) covers them all. A draw from q̄ is a draw from q with its slots shuffled, and the
weight p(x, z) / q̄(z) does not change under shuffling, so z is drawn from q.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence.proposals.elliptical import Elliptical
from pyro_compvae.permutation import all_permutations, log_permanent

MAX_PERMUTED_SLOTS = 8
"""The largest K for which all K! permutations are summed, 40,320 of them."""


class Proposal(Protocol):
    """A normalised distribution over the slots of B scenes."""

    num_slots: int

    def rsample(self, num_samples: int) -> Tensor:
        """Draws z (L, B, K, D), differentiable."""

    def log_prob(self, z: Tensor) -> Tensor:
        """The log-density of z (L, B, K, D), (L, B) in nats."""

    def symmetric_log_prob(self, z: Tensor) -> Tensor:
        """log q̄(z) of z (L, B, K, D), (L, B) in nats."""


class FactorisedProposal:
    """Independent slots: q(z) = Π_k q_k(z_k), so that q̄(z) = perm(A) / K! with A_jk = q_j(z_k), exactly.

    Args:
        slots: the distributions of the slots, of batch shape (B, K), on D dimensions.
    """

    def __init__(self, slots: Elliptical) -> None:
        self.slots = slots
        self.num_slots = slots.loc.shape[-2]

    def rsample(self, num_samples: int) -> Tensor:
        """Draws z (L, B, K, D), differentiable."""
        return self.slots.rsample(num_samples)

    def log_prob(self, z: Tensor) -> Tensor:
        """The log-density of z (L, B, K, D), (L, B) in nats."""
        return self.slots.log_prob(z).sum(-1)

    def symmetric_log_prob(self, z: Tensor) -> Tensor:
        """log q̄(z) of z (L, B, K, D), (L, B) in nats."""
        columns = [self.slots.log_prob(z[..., k, :].unsqueeze(-2).expand_as(z)) for k in range(self.num_slots)]
        return log_permanent(torch.stack(columns, dim=-1)) - math.lgamma(self.num_slots + 1)


class JointProposal:
    """Slots that depend on one another; q̄(z) is the mean over all K! permutations, for K up to 8.

    A sum over only some of them would be too small, and the weights too large.

    Args:
        joint: the distribution of all slots, of batch shape (B,), on K·D dimensions.
        num_slots: K.
    """

    def __init__(self, joint: Elliptical, num_slots: int) -> None:
        self.joint = joint
        self.num_slots = num_slots

    def rsample(self, num_samples: int) -> Tensor:
        """Draws z (L, B, K, D), differentiable."""
        return self.joint.rsample(num_samples).unflatten(-1, (self.num_slots, -1))

    def log_prob(self, z: Tensor) -> Tensor:
        """The log-density of z (L, B, K, D), (L, B) in nats."""
        return self.joint.log_prob(z.flatten(-2))

    def symmetric_log_prob(self, z: Tensor) -> Tensor:
        """log q̄(z) of z (L, B, K, D), (L, B) in nats.

        Slot a of z in place j contributes y_ja (K·D,) to S⁻¹ (z - loc). The squared norm of a permutation is a
        quadratic form eᵀ G e in the inner products G of all y, which are computed once for all permutations; e is 1
        where slot a is in place j. The form is computed by matrix products and not as a sum of chosen entries, whose
        gradient a GPU would add up entry by entry.

        Raises:
            ValueError: for more than 8 slots.
        """
        K = self.num_slots
        permutations = _permutations(z)
        shifts = z.unsqueeze(2) - self.joint.loc.unflatten(-1, (K, -1)).unsqueeze(-2)  # (L, B, K, K, D), of j and a
        y = torch.einsum("bnjd,lbjad->lbjan", self.joint.inverse().unflatten(-1, (K, -1)), shifts).flatten(2, 3)
        inner = torch.einsum("lbpn,lbqn->lbpq", y, y)
        parts = []
        for some in permutations.split(max(1, PERMUTED_DRAWS // inner[..., 0, 0].numel())):
            places = F.one_hot(some, K).to(inner.dtype).flatten(1)  # (P, K²)
            squares = ((places @ inner) * places).sum(-1)  # (L, B, P)
            parts.append(self.joint.log_prob_of_squares(squares.movedim(-1, 0)).logsumexp(0))
        return torch.stack(parts).logsumexp(0) - math.log(len(permutations))


PERMUTED_DRAWS = 2**17
"""How many permuted draws are held at a time, to bound the memory."""


def log_mean_over_permutations(log_prob: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """log q̄(z) = log 1/K! Σ_π q(z_π) of z (L, B, K, D), (L, B), for any density log q, which is evaluated K! times.

    Raises:
        ValueError: for more than 8 slots.
    """
    permutations = _permutations(z)
    total = torch.full_like(z[..., 0, 0], -torch.inf)
    for permutation in permutations:
        total = torch.logaddexp(total, log_prob(z[..., permutation, :]))
    return total - math.log(len(permutations))


def _permutations(z: Tensor) -> Tensor:
    """All orders of the slots of z (..., K, D), (K!, K)."""
    K = z.shape[-2]
    if K > MAX_PERMUTED_SLOTS:
        raise ArgumentError(
            f"symmetrise: expected at most {MAX_PERMUTED_SLOTS} slots for a proposal that correlates them, got "
            f"{K}, which have {math.factorial(K):,} permutations; take one that factorises over slots (diagonal, "
            "block)"
        )
    return all_permutations(K, z.device)


def normal_proposal(q: Normal) -> FactorisedProposal:
    """A guide's posterior, batch shape (B, K, D), as a proposal. It is in float64, so that its densities add nothing to
    the rounding of the likelihood."""
    return FactorisedProposal(Elliptical(q.loc.double(), torch.diag_embed(q.scale.double())))


class ExchangeableProposal(FactorisedProposal):
    """Slots that are independent and identically distributed, so that q̄ = q."""

    def symmetric_log_prob(self, z: Tensor) -> Tensor:
        """log q̄(z) of z (L, B, K, D), (L, B) in nats."""
        return self.log_prob(z)


def standard_normal_proposal(
    num_scenes: int, num_slots: int, latent_dim: int, device: torch.device | None = None
) -> ExchangeableProposal:
    """The prior N(0, I) of the slots of B scenes, in float64."""
    loc = torch.zeros(num_scenes, num_slots, latent_dim, dtype=torch.float64, device=device)
    identity = torch.eye(latent_dim, dtype=torch.float64, device=device).expand(num_scenes, num_slots, -1, -1)
    return ExchangeableProposal(Elliptical(loc, identity))
