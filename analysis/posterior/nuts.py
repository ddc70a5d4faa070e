"""NUTS on a single scene, which is the reference for guides and importance resampling."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

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
"""A function that is called after every step with the numbers of the chain and of the step, warm-up included."""


@dataclass(frozen=True)
class NutsConfig:
    """The settings of NUTS."""

    num_draws: int = 250
    """N, the number of draws of every chain."""
    num_chains: int = 4
    """C, the number of chains."""
    warmup_steps: int = 200
    """Number of steps of each chain before its draws, which adapt its step size and scales."""
    max_tree_depth: int = 8
    """A trajectory has at most two to the power of this number of leapfrog steps."""

    def __post_init__(self) -> None:
        check_counts(**dataclasses.asdict(self))

    @property
    def total(self) -> int:
        """The number of steps of all chains, warm-up included."""
        return self.num_chains * (self.num_draws + self.warmup_steps)


def nuts_draws(
    log_joint: LogJoint,
    q: Normal,
    config: NutsConfig | None = None,
    fit: Fit | None = None,
    progress: StepProgress | None = None,
) -> Draws:
    r"""Draw from p(z | x) of one scene with frozen weights, by the No-U-Turn Sampler of Pyro (Hoffman & Gelman 2014).

    Every chain starts at a draw from the guide's posterior with its slots in a random order, and is expected to stay in
    that copy of the mode. Chains can be compared, by R-hat, once their slots are aligned (`align_slots`), which
    `draws_to_inference_data` does.

    With ``fit``, chains move in the coordinates u of z = μ + S u in which that Gaussian is spherical. This makes long
    trajectories short and does not change the posterior, whose density in u is the same up to a constant.

    diverging: (C, N), whether the trajectory to that draw diverged.
    step_size: (1,), the leapfrog's step size, a mean over chains; it follows the smallest scale of the posterior.

    Args:
        log_joint: log p(x, z) of a single scene.
        q: the guide's posterior of that scene, of batch shape (1, K, D).
        config: the settings.
        fit: a fit of the family "full" to the same scene.
        progress: called after every step.

    Raises:
        ValueError: for more than one scene, or a fit that is not "full".
    """
    config = config or NutsConfig()
    if log_joint.num_scenes != 1:
        raise ArgumentError(f"log_joint: expected a single scene, got {log_joint.num_scenes}")
    K, D = log_joint.event_shape
    if fit is not None and fit.scale_tril.shape != (1, K * D, K * D):
        raise ArgumentError(f"fit: expected one of family 'full' to one scene, got {tuple(fit.scale_tril.shape)}")
    start = normal_proposal(q).rsample(config.num_chains)[:, 0].detach()  # (C, K, D), in the guide's order
    loc = (start.new_zeros(K * D) if fit is None else fit.loc[0].flatten()).to(start)
    scale_tril = (torch.eye(K * D) if fit is None else fit.scale_tril[0]).to(start)
    chains = []
    for index, first in enumerate(start):
        coordinates = _Coordinates(loc, scale_tril, torch.randperm(K).to(start.device), D)
        show = None if progress is None else partial(progress, index)
        chains.append(_chain(log_joint, coordinates, first, config, show))
    z, diverging, step_sizes = zip(*chains, strict=True)
    step_size = torch.tensor([sum(step_sizes) / config.num_chains])
    return Draws(torch.stack(z).unsqueeze(2), "nuts", {"diverging": torch.stack(diverging)}, {"step_size": step_size})


@dataclass(frozen=True)
class _Coordinates:
    """The map z = μ + S u from u (..., K D) to slots (..., K, D) in some order."""

    loc: Tensor
    scale_tril: Tensor
    order: Tensor
    latent_dim: int

    def slots(self, u: Tensor) -> Tensor:
        z = self.loc + torch.einsum("ij,...j->...i", self.scale_tril, u)
        return z.unflatten(-1, (-1, self.latent_dim))[..., self.order, :]

    def of(self, z: Tensor) -> Tensor:
        """The u of z (K, D) whose slots are in the order of μ."""
        centred = (z.flatten() - self.loc).unsqueeze(-1)
        return torch.linalg.solve_triangular(self.scale_tril, centred, upper=False).squeeze(-1)


def _chain(
    log_joint: LogJoint,
    coordinates: _Coordinates,
    first: Tensor,
    config: NutsConfig,
    progress: Callable[[int], object] | None,
) -> tuple[Tensor, Tensor, float]:
    """Run one chain from z (K, D): returns its draws (N, K, D), which of them diverged, and its step size."""

    def potential(sites: dict[str, Tensor]) -> Tensor:
        try:
            return -log_joint(coordinates.slots(sites["u"])[None, None]).squeeze()
        except FloatingPointError:  # the trajectory has left the range of float32 and will be rejected
            return 0 * sites["u"].sum() + math.inf

    def after_step(kernel: object, sites: object, stage: str, step: int) -> None:
        if progress is not None:
            progress(step + (0 if "warm" in stage.lower() else config.warmup_steps))

    kernel = NUTS(potential_fn=potential, max_tree_depth=config.max_tree_depth)
    mcmc = MCMC(
        kernel,
        num_samples=config.num_draws,
        warmup_steps=config.warmup_steps,
        initial_params={"u": coordinates.of(first)},
        disable_progbar=True,
        hook_fn=after_step,
    )
    with exact_products():  # Pyro takes gradients, which must be exact too
        mcmc.run()
    diverged = torch.zeros(config.num_draws, dtype=torch.bool)
    diverged[list(mcmc.diagnostics()["divergences"]["chain 0"])] = True
    return coordinates.slots(mcmc.get_samples()["u"]), diverged, float(kernel.step_size)
