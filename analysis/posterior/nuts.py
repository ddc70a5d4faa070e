"""NUTS on a single scene, the ground truth that guides and importance resampling are held against."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pyro.infer.mcmc import MCMC, NUTS
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.analysis.posterior.draws import Draws
from pyro_compvae.checks import check_counts
from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence.density import LogJoint
from pyro_compvae.evidence.fitting.gaussian import Fit
from pyro_compvae.evidence.proposals.symmetric import normal_proposal
from pyro_compvae.precision import exact_products

StepProgress = Callable[[int, int], object]
"""Called after every step with the number of the chain and that of the step, warm-up included."""


def nuts_draws(
    log_joint: LogJoint,
    q: Normal,
    num_draws: int = 250,
    num_chains: int = 4,
    warmup_steps: int = 200,
    fit: Fit | None = None,
    max_tree_depth: int = 8,
    progress: StepProgress | None = None,
) -> Draws:
    r"""Draws from p(z | x) of one scene with frozen weights, by the No-U-Turn Sampler of Pyro (Hoffman & Gelman 2014).

    Every chain starts at a draw from the guide's posterior with its slots in an order of its own, and would stay in
    that copy of the mode. Chains may be compared, by R-hat, once their slots are aligned (`align_slots`), which
    `to_inference_data` does.

    With ``fit``, chains move in the coordinates u of z = μ + S u in which that Gaussian is spherical. It makes long
    trajectories short, and leaves the posterior, of which u has the density up to a constant, as it is.

    diverging: (C, N), whether the trajectory to that draw diverged.
    step_size: (1,), of the leapfrog, mean over chains; it goes with the smallest scale of the posterior.

    Args:
        log_joint: log p(x, z) of a single scene.
        q: the guide's posterior of that scene, batch shape (1, K, D).
        num_draws, num_chains: N and C.
        warmup_steps: of each chain, to adapt its step size and scales.
        fit: of family "full", to the same scene.
        max_tree_depth: of a trajectory, at most 2^depth leapfrog steps.
        progress: called after every step.

    Raises:
        ValueError: for more than one scene, counts below one, or a fit that is not "full".
    """
    check_counts(num_draws=num_draws, num_chains=num_chains, warmup_steps=warmup_steps)
    if log_joint.num_scenes != 1:
        raise ArgumentError(f"log_joint: expected a single scene, got {log_joint.num_scenes}")
    K, D = log_joint.event_shape
    if fit is not None and fit.scale_tril.shape != (1, K * D, K * D):
        raise ArgumentError(f"fit: expected one of family 'full' to one scene, got {tuple(fit.scale_tril.shape)}")
    start = normal_proposal(q).rsample(num_chains)[:, 0].detach()  # (C, K, D), in the guide's order
    loc = (start.new_zeros(K * D) if fit is None else fit.loc[0].flatten()).to(start)
    scale_tril = (torch.eye(K * D) if fit is None else fit.scale_tril[0]).to(start)
    chains, diverging, step_sizes = [], [], []
    for chain in range(num_chains):
        order = torch.randperm(K).to(start.device)

        def slots(u: Tensor, order: Tensor = order) -> Tensor:
            z = loc + torch.einsum("ij,...j->...i", scale_tril, u)
            return z.unflatten(-1, (K, D))[..., order, :]

        def potential(sites: dict[str, Tensor], slots: Callable[[Tensor], Tensor] = slots) -> Tensor:
            try:
                return -log_joint(slots(sites["u"]).view(1, 1, K, D)).squeeze()
            except FloatingPointError:  # a trajectory that has left all that float32 can hold; it will be rejected
                return 0 * sites["u"].sum() + math.inf

        def after_step(kernel: object, sites: object, stage: str, step: int, chain: int = chain) -> None:
            if progress is not None:
                progress(chain, step + (0 if "warm" in stage.lower() else warmup_steps))

        first = torch.linalg.solve_triangular(scale_tril, (start[chain].flatten() - loc).unsqueeze(-1), upper=False)
        kernel = NUTS(potential_fn=potential, max_tree_depth=max_tree_depth)
        mcmc = MCMC(
            kernel,
            num_samples=num_draws,
            warmup_steps=warmup_steps,
            initial_params={"u": first.squeeze(-1)},
            disable_progbar=True,
            hook_fn=after_step,
        )
        with exact_products():  # gradients, too, which Pyro takes
            mcmc.run()
        chains.append(slots(mcmc.get_samples()["u"]))
        diverged = torch.zeros(num_draws, dtype=torch.bool)
        diverged[list(mcmc.diagnostics()["divergences"]["chain 0"])] = True
        diverging.append(diverged)
        step_sizes.append(float(kernel.step_size))
    return Draws(
        torch.stack(chains).unsqueeze(2),
        "nuts",
        {"diverging": torch.stack(diverging)},
        {"step_size": torch.tensor([sum(step_sizes) / num_chains])},
    )
