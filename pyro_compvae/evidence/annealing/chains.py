"""Annealed importance sampling of log p(x), scene by scene (Neal 2001)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_compvae.evidence.annealing.config import AnnealingConfig
from pyro_compvae.evidence.annealing.hmc import hmc_step, jittered
from pyro_compvae.evidence.annealing.path import JointDensity, Path, Plan, make_plan
from pyro_compvae.evidence.density import LogJoint
from pyro_compvae.evidence.estimate import EvidenceEstimate, estimate_from_log_weights
from pyro_compvae.evidence.importance import posterior_proposal
from pyro_compvae.evidence.proposals.symmetric import Proposal, standard_normal_proposal

TransitionProgress = Callable[[int, int, Tensor], object]
"""A function that is called after every transition with its number, the total, and the scenes' mean acceptance (B,)."""


class Annealing(NamedTuple):
    """The outcome of annealing with L chains.

    log_weights: (L, B), nats.
    z: (L, B, K, D), the ends of the chains; with the log weights they are draws from the density at the path's end.
    acceptance: (T - 1, B), mean over chains at every temperature. The step sizes are frozen, so values far below the
        target mean that the pilot's chains were elsewhere, and that there should be more of them.
    evaluations: how often the log joint of a scene was evaluated, without the pilot.
    """

    log_weights: Tensor
    z: Tensor
    acceptance: Tensor
    evaluations: int

    @property
    def estimate(self) -> EvidenceEstimate:
        """The evidence, if the chains went from start to joint; for chains on the way back, its inverse."""
        return estimate_from_log_weights(self.log_weights)


def anneal(
    path: Path, plan: Plan, z: Tensor, chunk_size: int = 64, progress: TransitionProgress | None = None
) -> Annealing:
    r"""Move chains along a path of densities f_0, ..., f_T, and weigh them on the way.

        log w = Σ_t log f_t(z_{t-1}) - log f_{t-1}(z_{t-1}) = Σ_t (β_t - β_{t-1}) U(z_{t-1}),    z_t ~ HMC_t(z_{t-1})

    so that E[w] = Z_T / Z_0 with Z_t = ∫ f_t, for any number of temperatures and however poor the transitions are, if
    z_0 is drawn from f_0 / Z_0. The reversed plan goes from the posterior to the start. Every leapfrog step takes one
    evaluation of the log joint.

    Args:
        path, plan: the densities, and the temperatures and step sizes.
        z: the starts of the chains, (L, B, K, D).
        chunk_size: chains per scene held at a time; memory grows with it.
        progress: called after every transition.
    """
    T = len(plan.temperatures) - 1
    parts: list[Tensor] = []
    ends, acceptances, sizes, evaluations = [], [], [], 0
    total = (T - 1) * len(z.split(chunk_size))
    for part in z.split(chunk_size):
        point = path.at(plan.temperatures[0]).evaluate(part)
        log_weights = torch.zeros_like(point.log_factors[0])
        rates = []
        evaluations += len(part)
        for t in range(1, T + 1):
            log_weights += (plan.temperatures[t] - plan.temperatures[t - 1]) * path.log_ratio(point)
            if t == T:
                break
            num_steps = jittered(plan.leapfrog_steps)
            target = path.at(plan.temperatures[t])
            point, info = hmc_step(target, point, plan.step_sizes[t - 1], plan.scale_tril, num_steps)
            evaluations += num_steps * len(part)
            rates.append(info.acceptance.mean(0))
            if progress is not None:
                progress((T - 1) * len(parts) + t, total, rates[-1])
        parts.append(log_weights)
        ends.append(point.z)
        sizes.append(len(part))
        acceptances.append(torch.stack(rates) if rates else plan.temperatures[:0])
    share = torch.tensor(sizes).to(z) / len(z)
    acceptance = torch.einsum("c,ctb->tb", share, torch.stack(acceptances))
    return Annealing(torch.cat(parts), torch.cat(ends), acceptance, evaluations)


def annealed_log_evidence(
    model: Callable[..., Any],
    guide: Any,
    *arguments: Tensor,
    config: AnnealingConfig = AnnealingConfig(),
    progress: TransitionProgress | None = None,
) -> EvidenceEstimate:
    """Estimate log p(x) of every scene by annealed importance sampling with HMC transitions.

    Chains go from the guide's symmetrised posterior to p(z | x); see `anneal` for weights and `make_plan` for
    temperatures and step sizes, which a pilot run chooses. No estimate from one side can tell whether that was enough;
    `bidirectional_log_evidence` can, on simulated scenes.

    The leapfrog uses the covariance of the start. If the start is much narrower than the posterior in some direction,
    such as a factorised guide of slots that make up for each other, the steps are too short to get anywhere, although
    acceptance rates and standard errors look good. Start from the prior then, or from a fit with full covariance, which
    `refined_log_evidence` does; `annealed` starts from any proposal.

    Args:
        model: the model in eval mode; its only latent site is "z" with exchangeable slots.
        guide: the guide in eval mode, with posterior(*arguments) → Normal (B, K, D); None starts at the prior N(0, I).
        arguments: the arguments of both: images x (B, 3, H, W) in [0, 1], or (B, V, 3, H, W) and viewpoints (B, V, 3).
        config: the effort.
        progress: called after every transition.

    Returns:
        The estimate, whose log weights are (num_chains, B).

    Raises:
        TraceError: (a ValueError) for models as in `LogJoint`, a guide in train mode or without ``posterior``.
    """
    log_joint = LogJoint(model, *arguments)
    return annealed(log_joint, default_start(log_joint, guide), config, progress).estimate


def annealed(
    log_joint: JointDensity,
    proposal: Proposal,
    config: AnnealingConfig = AnnealingConfig(),
    progress: TransitionProgress | None = None,
) -> Annealing:
    """Anneal chains from any proposal to the posterior; with their weights they are draws from it.

    Args:
        log_joint: log p(x, z) of the scenes.
        proposal: the distribution from which chains start.
        config: the effort.
        progress: called after every transition.
    """
    path = Path(log_joint, proposal, config.symmetrise)
    with torch.no_grad():
        plan = make_plan(path, config)
        return anneal(path, plan, proposal.rsample(config.num_chains), config.chunk_size, progress)


def default_start(log_joint: LogJoint, guide: Any) -> Proposal:
    """The posterior of a guide; without one, the prior N(0, I).

    Raises:
        TraceError: for a guide in train mode or without ``posterior``.
    """
    if guide is None:
        K, D = log_joint.event_shape
        device = next((argument.device for argument in log_joint.arguments if isinstance(argument, Tensor)), None)
        return standard_normal_proposal(log_joint.num_scenes, K, D, device)
    return posterior_proposal(log_joint, guide, "Pass guide=None to start at the prior, or call `annealed`.")
