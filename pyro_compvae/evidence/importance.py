"""Importance sampling of log p(x), scene by scene."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.checks import check_counts
from pyro_compvae.evidence.annealing.hmc import LogDensity
from pyro_compvae.evidence.density import LogJoint, naming_memory, symmetric_density
from pyro_compvae.evidence.estimate import EvidenceEstimate, estimate_from_log_weights
from pyro_compvae.evidence.independence import check_independent
from pyro_compvae.evidence.pair import check_density, check_support, inspect_pair
from pyro_compvae.evidence.proposals.symmetric import FactorisedProposal, Proposal, normal_proposal
from pyro_compvae.evidence.trace import TraceError, check_eval, particles_trace, per_scene_log_prob


def importance_log_evidence(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *arguments: Tensor,
    num_samples: int,
    chunk_size: int = 50,
    symmetrise: bool = True,
) -> EvidenceEstimate:
    r"""Estimate log p(x) of every scene with draws from a guide.

        log p̂(x_b) = log 1/L Σ_l w_lb,    w_lb = p(x_b, z_lb) / q(z_lb | x_b)     or, symmetrised, / q̄(z_lb | x_b)

    where q̄ = 1/K! Σ_π Π_j q_j(z_π(j)) is computed exactly, by a permanent. Without symmetrisation any pair of Pyro
    programs will do if its sites lie in ``pyro.plate("scenes")``, and the mean log weight is the ELBO. With it, the
    model's only latent site is "z" with exchangeable slots, and the guide has ``posterior(*arguments)``, a Normal of
    shape (B, K, D).

    Memory grows with ``chunk_size``, not with ``num_samples``.

    Args:
        model, guide: the pair, in eval mode.
        arguments: the arguments of both: images x (B, 3, H, W) in [0, 1], or (B, V, 3, H, W) and viewpoints (B, V, 3).
        num_samples: L, draws per scene.
        chunk_size: draws per scene held at a time.
        symmetrise: whether to weigh draws by q̄ instead of q.

    Raises:
        ValueError: for fewer than one sample, or for a guide without ``posterior`` if that is needed.
        TraceError: (a ValueError) for sites outside the plate, factors in the guide, or train mode.
        FloatingPointError: for NaN weights, with the scene and the site.
    """
    check_counts(num_samples=num_samples, chunk_size=chunk_size)
    check_eval(guide, "guide")
    if symmetrise:
        log_joint = LogJoint(model, *arguments)
        proposal = posterior_proposal(log_joint, guide, "Pass symmetrise=False.")
        return proposal_log_evidence(log_joint, proposal, num_samples, chunk_size)
    pair = inspect_pair(model, guide, arguments)
    check_density(pair, guide, arguments)
    nesting = pair.nesting

    def draw(size: int) -> tuple[poutine.Trace, poutine.Trace]:
        q_trace = particles_trace(guide, arguments, size, nesting)
        return particles_trace(poutine.replay(model, q_trace), arguments, size, nesting), q_trace

    log_weights = []
    with torch.no_grad():
        check_independent(lambda: draw(2)[0], model, arguments, nesting, pair.latent, "model and guide")
        for size in chunk_sizes(num_samples, chunk_size):
            with naming_memory(size, len(arguments[0]) if arguments else 1):
                p_trace, q_trace = draw(size)
            check_support(p_trace, q_trace)
            log_p = per_scene_log_prob(p_trace, size, nesting, "model")
            log_weights.append(log_p - per_scene_log_prob(q_trace, size, nesting, "guide"))
    return estimate_from_log_weights(torch.cat(log_weights))


def posterior_proposal(log_joint: LogJoint, guide: Any, otherwise: str = "") -> FactorisedProposal:
    """A guide's posterior for the scenes of a log joint, as a proposal.

    Args:
        log_joint: log p(x, z) of the scenes.
        guide: the guide in eval mode, with posterior(*arguments) → Normal (B, K, D).
        otherwise: a sentence for the error message that says what to do if the guide has no ``posterior``.

    Raises:
        TraceError: for a guide that is not of that kind.
    """
    check_eval(guide, "guide")
    if not hasattr(guide, "posterior"):
        raise TraceError(
            "guide: expected a method posterior(*arguments) → Normal (B, K, D); "
            f"{type(guide).__name__} has none. {otherwise}"
        )
    with torch.no_grad(), pyro.validation_enabled(False):  # NaN is reported later, with its scene
        q = guide.posterior(*log_joint.arguments)
    expected = (log_joint.num_scenes, *log_joint.event_shape)
    if not isinstance(q, Normal) or q.batch_shape != expected or len(expected) != 3:
        raise TraceError(f"guide: expected its posterior to be a Normal of batch shape {expected}, got {q}")
    return normal_proposal(q)


def proposal_log_evidence(
    log_joint: LogJoint, proposal: Proposal, num_samples: int, chunk_size: int = 50, symmetrise: bool = True
) -> EvidenceEstimate:
    """Estimate log p(x) of every scene with draws from any proposal for its slots.

    Args:
        log_joint: log p(x, z) of the scenes.
        proposal: the distribution from which z is drawn.
        num_samples: L, draws per scene.
        chunk_size: draws per scene held at a time.
        symmetrise: whether to weigh draws by q̄ instead of q.

    Raises:
        TraceError: if draws are to be weighed by q̄, and the model's slots are not exchangeable.
    """
    log_q = symmetric_density(log_joint, proposal) if symmetrise else proposal.log_prob
    return _sample(log_joint, proposal, (log_q,), num_samples, chunk_size)[0]


def plain_and_symmetric_log_evidence(
    log_joint: LogJoint, proposal: Proposal, num_samples: int, chunk_size: int = 50
) -> tuple[EvidenceEstimate, EvidenceEstimate]:
    """The plain and the symmetrised estimate of `proposal_log_evidence` from the same draws, which adds no noise.

    Raises:
        TraceError: if the model's slots are not exchangeable.
    """
    both = (proposal.log_prob, symmetric_density(log_joint, proposal))
    plain, symmetric = _sample(log_joint, proposal, both, num_samples, chunk_size)
    return plain, symmetric


def _sample(
    log_joint: LogJoint, proposal: Proposal, log_qs: Sequence[LogDensity], num_samples: int, chunk_size: int
) -> list[EvidenceEstimate]:
    check_counts(num_samples=num_samples, chunk_size=chunk_size)
    log_weights: list[list[Tensor]] = [[] for _ in log_qs]
    with torch.no_grad():
        for size in chunk_sizes(num_samples, chunk_size):
            z = proposal.rsample(size)
            log_p = log_joint(z)
            for parts, log_q in zip(log_weights, log_qs, strict=True):
                parts.append(log_p - log_q(z))
    return [estimate_from_log_weights(torch.cat(parts)) for parts in log_weights]


def chunk_sizes(total: int, chunk_size: int) -> list[int]:
    """The sizes of the chunks of at most `chunk_size` into which `total` draws are divided."""
    return [min(chunk_size, total - start) for start in range(0, total, chunk_size)]
