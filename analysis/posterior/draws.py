"""Draws from the posterior of a batch of scenes, from the guide itself or resampled by importance."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.checks import check_counts
from pyro_compvae.evidence.density import LogJoint, symmetric_density
from pyro_compvae.evidence.estimate import estimate_from_log_weights
from pyro_compvae.evidence.importance import chunk_sizes
from pyro_compvae.evidence.pareto import pareto_smoothed
from pyro_compvae.evidence.proposals.symmetric import Proposal, normal_proposal


@dataclass(frozen=True)
class Draws:
    """Draws z for B scenes, and the numbers that their source gives with them.

    z: (C, N, B, K, D), N draws from each of C chains. Independent draws are divided into chains too, so that ArviZ can
        compare these.
    source: the source, "guide", "importance" or "nuts".
    of_draws: further numbers of every draw, such as log weights in nats, (C, N, B), or (C, N) for all scenes together.
    of_scenes: further numbers of every scene, (B,), such as k̂.
    num_weights: the number of weights behind k̂, if there is one.
    """

    z: Tensor
    source: str
    of_draws: dict[str, Tensor] = field(default_factory=dict)
    of_scenes: dict[str, Tensor] = field(default_factory=dict)
    num_weights: int = 0


def guide_draws(log_joint: LogJoint, q: Normal, num_draws: int, num_chains: int = 4) -> Draws:
    """Independent draws from a guide's posterior, with the weights that would turn them into draws from the true
    posterior.

    log_weight: log p(x, z) − log q̄(z) in nats, with the symmetrised q̄, which does not depend on the order of slots.
    khat, ess: those of these weights. If k̂ is above 0.7, the draws do not represent the posterior, even if reweighted.

    Args:
        log_joint: log p(x, z) of the scenes.
        q: the guide's posterior, of batch shape (B, K, D).
        num_draws, num_chains: N and C.

    Raises:
        ValueError: for counts below one, or more slots than an exact permanent allows.
    """
    check_counts(num_draws=num_draws, num_chains=num_chains)
    z, log_weights = weighted_draws(log_joint, normal_proposal(q), num_chains * num_draws)
    return _of_weights("guide", z, log_weights, log_weights, num_chains)


def importance_draws(z: Tensor, log_weights: Tensor, num_draws: int, num_chains: int = 4) -> Draws:
    """Sampling importance resampling (Rubin 1988): resample weighted draws by their Pareto-smoothed weights.

    Weighted draws come from a proposal (`weighted_draws`), or are the ends of annealed chains, with their weights
    (`annealed`). All chains are resampled from all of them, so R-hat and ESS of the result do not say how good they
    are; khat and ess do. If ess is small, the same draws are kept several times.

    log_weight: the log weight of each draw that is kept, in nats, not smoothed.
    khat, ess: those of the weights of a scene.

    Args:
        z: the draws, (L, B, K, D).
        log_weights: their log weights, (L, B) in nats.
        num_draws, num_chains: N and C.

    Raises:
        ValueError: for counts below one.
    """
    check_counts(num_draws=num_draws, num_chains=num_chains)
    kept, log_weight = resample(z, log_weights, num_chains * num_draws)
    return _of_weights("importance", kept, log_weight, log_weights, num_chains)


def _of_weights(source: str, z: Tensor, log_weight: Tensor, log_weights: Tensor, num_chains: int) -> Draws:
    """Draws z (C · N, B, K, D) with their own log weights, and with k̂ and ESS of all weights of their source."""
    estimate = estimate_from_log_weights(log_weights)
    return Draws(
        z.unflatten(0, (num_chains, -1)),
        source,
        {"log_weight": log_weight.unflatten(0, (num_chains, -1))},
        {"khat": estimate.khat, "ess": estimate.ess},
        num_weights=len(log_weights),
    )


@torch.no_grad()
def weighted_draws(
    log_joint: LogJoint, proposal: Proposal, num_samples: int, chunk_size: int = 16
) -> tuple[Tensor, Tensor]:
    """Draw z (L, B, K, D) from a proposal; returns z and log p(x, z) − log q̄(z), (L, B) in nats."""
    chunks = [proposal.rsample(size) for size in chunk_sizes(num_samples, chunk_size)]
    log_q = symmetric_density(log_joint, proposal)
    log_weights = [log_joint(z) - log_q(z) for z in chunks]
    return torch.cat(chunks), torch.cat(log_weights)


def resample(z: Tensor, log_weights: Tensor, num_draws: int) -> tuple[Tensor, Tensor]:
    """Resample weighted draws with replacement, by their Pareto-smoothed weights, for each scene separately.

    Args:
        z: (L, B, K, D).
        log_weights: (L, B), nats.
        num_draws: N.

    Returns:
        z (N, B, K, D), and their log weights (N, B), not smoothed.
    """
    weights = pareto_smoothed(log_weights)[0].softmax(0)
    chosen = torch.multinomial(weights.T, num_draws, replacement=True).T  # (N, B)
    return z.gather(0, chosen[..., None, None].expand(-1, *z.shape[1:])), log_weights.gather(0, chosen)
