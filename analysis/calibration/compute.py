r"""Simulation-based calibration, which tests whether a posterior is as uncertain as it should be.

Draw z* from the prior and x from p(x | z*). Then z* is one more draw from p(z | x), and the rank of any number T(z*, x)
among those of draws from a posterior is uniform if that posterior is exact (Cook, Gelman & Rubin 2006; Talts et al.
2018). T may depend on x (Modrák et al. 2023); the log-likelihood finds faults that functions of z alone do not. Slots
are exchangeable, so T has to be invariant under their permutations: the rank of "slot 2" means nothing.

If T is the posterior's own density, the rank says in which of its regions of highest density z* lies, which gives the
expected coverage (Hermans et al. 2022).
"""

from __future__ import annotations

import torch
import xarray
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.analysis.evidence.compute import EvidenceConfig, log_joint_and_posterior
from pyro_compvae.analysis.posterior.draws import resample
from pyro_compvae.analysis.progress import SceneBar, ShowProgress
from pyro_compvae.analysis.runs import Run
from pyro_compvae.checks import check_counts
from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence import LogJoint, annealed_from, fit_and_cover, normal_proposal, simulate
from pyro_compvae.evidence.importance import chunk_sizes
from pyro_compvae.lnms import slot_correlation
from pyro_compvae.repulsion import repulsion_of

QUANTITIES = {
    "log_likelihood": "log p(x | z)",
    "log_joint": "log p(x, z)",
    "log_guide": "log q̄(z | x) of the guide",
    "log_prior": "log p(z): the norm of all slots",
    "largest_norm": "norm of the largest slot",
    "smallest_norm": "norm of the smallest slot",
    "largest_cosine": "cosine of the two slots most alike",
    "total": "sum of all slots and latents",
}
"""The quantities that are ranked, all invariant under permutations of the slots, with their titles in figures."""

FEW_DRAWS = 8
"""Number of draws resampled by importance, among which an exact draw is ranked."""

COVERAGE = {"guide": "log_guide", "importance": "log_joint"}
"""The density, up to a constant, whose regions define the coverage of each kind of draws."""


def invariants(log_joint: LogJoint, q: Normal, z: Tensor, chunk_size: int = 16) -> dict[str, Tensor]:
    """The numbers T(z, x) of `QUANTITIES` at draws z (L, B, K, D), (L, B) each.

    Args:
        log_joint: log p(x, z) of the scenes x.
        q: the guide's posterior, of batch shape (B, K, D).
        z: the draws.
        chunk_size: how many draws are evaluated at a time.
    """
    K = z.shape[-2]
    log_prior = Normal(0.0, 1.0).log_prob(z).sum((-2, -1))
    log_p = torch.cat([log_joint(part) for part in z.split(chunk_size)])
    norms = z.norm(dim=-1)
    others = ~torch.eye(K, dtype=torch.bool, device=z.device)
    cosines = slot_correlation(z)[..., others] if K > 1 else torch.zeros_like(norms)
    return {
        "log_likelihood": log_p - log_prior,
        "log_joint": log_p,
        "log_guide": torch.cat([normal_proposal(q).symmetric_log_prob(part) for part in z.split(chunk_size)]),
        "log_prior": log_prior,
        "largest_norm": norms.amax(-1),
        "smallest_norm": norms.amin(-1),
        "largest_cosine": cosines.amax(-1),
        "total": z.sum((-2, -1)),
    }


def ranks(exact: Tensor, draws: Tensor) -> Tensor:
    """The rank of an exact draw among others, in [0, 1], which is uniform if it is one more of them; ties are random.

    Args:
        exact: the exact draw's numbers, (B,).
        draws: the others' numbers, (L, B).
    """
    below, equal = (draws < exact).sum(0), (draws == exact).sum(0)
    return (below + torch.rand(exact.shape, dtype=torch.float64, device=exact.device) * (equal + 1)) / (len(draws) + 1)


def scene_ranks(log_joint: LogJoint, q: Normal, z_exact: Tensor, z: Tensor) -> Tensor:
    """The ranks of all `QUANTITIES` for simulated scenes, (quantity, B).

    Args:
        log_joint: log p(x, z) of the scenes.
        q: the guide's posterior, of batch shape (B, K, D).
        z_exact: the slots from which the scenes were simulated, (B, K, D).
        z: draws from any posterior, (L, B, K, D).
    """
    exact, drawn = invariants(log_joint, q, z_exact[None].to(z)), invariants(log_joint, q, z)
    return torch.stack([ranks(exact[name][0], drawn[name]) for name in QUANTITIES])


@torch.no_grad()
def calibrate(
    run: Run,
    num_scenes: int,
    num_draws: int = 200,
    config: EvidenceConfig | None = None,
    viewpoints: Tensor | None = None,
    batch_scenes: int = 16,
    progress: SceneBar | None = None,
) -> xarray.Dataset:
    """Rank the exact draws of scenes simulated from a run's model among draws of its guide, and of resampled chains.

    rank: (source, quantity, scene), for the sources "guide" and "importance".
    num_draws: (source), the number of draws. Importance has few: ranks need independent draws, and there are no more
        of them than the effective sample size.
    khat: (scene), k̂ of the ``num_weights`` weights by which chains were resampled, which should be small.

    Slots drawn from the prior make scenes on which no guide was trained. So this is a hard test, but the only one whose
    truth is known.

    Args:
        run: the run, whose prior must have independent slots.
        num_scenes: the number of simulated scenes.
        num_draws: the number of draws from the guide.
        config: the effort of fits and annealed chains; None leaves importance out.
        viewpoints: the viewpoints (num_scenes, V, 3), if the model has any.
        batch_scenes: how many scenes are computed at a time.
        progress: a bar of the scenes, which moves while they are computed.

    Raises:
        ValueError: for counts below one, or a run whose slots repel one another.
    """
    check_counts(num_scenes=num_scenes, num_draws=num_draws, batch_scenes=batch_scenes)
    if repulsion_of(run.model) is not None:
        raise ArgumentError("run: expected independent slots, which can be drawn exactly, got a repulsive prior")
    counts = {"guide": num_draws} | ({} if config is None else {"importance": FEW_DRAWS})
    parts, khats, start = [], [], 0
    bar = progress or SceneBar(num_scenes, disable=True)
    for size in chunk_sizes(num_scenes, batch_scenes):
        show = bar.batch(size)
        conditions = () if viewpoints is None else (viewpoints[start : start + size],)
        z_exact, arguments = simulate(run.model, *conditions, num_scenes=None if conditions else size)
        log_joint, q = log_joint_and_posterior(run, arguments)
        draws = [normal_proposal(q).rsample(num_draws)]
        if config is not None:
            resampled, khat = _resampled_chains(log_joint, q, config, show)
            draws.append(resampled)
            khats.append(khat)
        parts.append(torch.stack([scene_ranks(log_joint, q, z_exact, z) for z in draws]))
        start += size
        show.finish()
    data = xarray.Dataset(
        {
            "rank": (("source", "quantity", "scene"), torch.cat(parts, -1).cpu().numpy()),
            "num_draws": ("source", list(counts.values())),
        },
        coords={"source": list(counts), "quantity": list(QUANTITIES)},
    )
    if config is None:
        return data
    return data.assign(khat=("scene", torch.cat(khats).cpu().numpy())).assign_attrs(num_weights=config.ais_chains)


def _resampled_chains(
    log_joint: LogJoint, q: Normal, config: EvidenceConfig, show: ShowProgress
) -> tuple[Tensor, Tensor]:
    """Draws (L, B, K, D) by their weights from chains annealed from fits that start at q, and k̂ (B,)."""
    refined = config.refined()
    show.expect(refined.evaluations())
    show.watch(log_joint)
    chains = annealed_from(log_joint, fit_and_cover(log_joint, q, refined), refined)
    return resample(chains.z, chains.log_weights, FEW_DRAWS)[0], chains.estimate.khat
