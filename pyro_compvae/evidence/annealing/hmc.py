"""Hamiltonian Monte Carlo on many chains of many scenes at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_compvae.evidence.density import value_and_gradient

LogDensity = Callable[[Tensor], Tensor]
"""A log-density, up to a constant: a function from z (L, B, K, D) to (L, B) in nats."""

BOX = 1e4
"""Trajectories that leave |z| ≤ BOX are rejected, since networks in float32 overflow far outside. A standard normal
prior has no mass there. The target stays invariant if trajectories are rejected for where they go, wherever they
began."""


class Point(NamedTuple):
    """The positions of L chains of B scenes, with all that the next transition needs there.

    z: the positions, (L, B, K, D).
    log_factors: (P, L, B), log f_p(z) in nats.
    gradients: (P, L, B, K, D), the gradients of log_factors.
    """

    z: Tensor
    log_factors: Tensor
    gradients: Tensor


class HmcInfo(NamedTuple):
    """The outcome of a transition.

    acceptance: (L, B), a probability; 0 for trajectories that left the box or met a density that is not finite.
    accepted: (L, B), whether the chain moved.
    """

    acceptance: Tensor
    accepted: Tensor


@dataclass(frozen=True)
class Target:
    r"""A density that is a product of powers, log π(z_b) = Σ_p w_pb log f_p(z_b) + constant.

    A geometric path between densities changes the powers only. One `Point` therefore serves the whole path, and no
    factor is evaluated twice at the same position.

    Args:
        factors: the P functions log f_p.
        powers: the powers w (P, B).
    """

    factors: tuple[LogDensity, ...]
    powers: Tensor

    def evaluate(self, z: Tensor) -> Point:
        """The point at z (L, B, K, D): one evaluation of every factor, and of its gradient."""
        values, gradients = zip(*(value_and_gradient(factor, z, len(z)) for factor in self.factors), strict=True)
        return Point(z.detach(), torch.stack(values), torch.stack(gradients))

    def log_density(self, point: Point) -> Tensor:
        """log π at a point, (L, B)."""
        return torch.einsum("pb,plb->lb", self.powers, point.log_factors)

    def gradient(self, point: Point) -> Tensor:
        """∇ log π at a point, (L, B, K, D)."""
        return torch.einsum("pb,plbkd->lbkd", self.powers, point.gradients)

    def force(self, point: Point, scale_tril: Tensor) -> Tensor:
        """Sᵀ∇log π, (L, B, G, N), which is the gradient with respect to u, where z = S u (`hmc_step`)."""
        gradient = self.gradient(point).reshape(-1, *scale_tril.shape[:3])
        return torch.einsum("bgji,lbgj->lbgi", scale_tril, gradient)


def hmc_step(
    target: Target, point: Point, step_size: Tensor, scale_tril: Tensor, num_steps: int
) -> tuple[Point, HmcInfo]:
    """Make one transition, which leaves the target invariant.

    Args:
        target: the density π.
        point: the result of `Target.evaluate`, or of the last transition.
        step_size: ε (B, N) for the coordinates of every block, or (B, 1); the chains of a scene share it.
        scale_tril: S (B, G, N, N) with G·N = K·D: the leapfrog runs in coordinates u where z = S u, in G independent
            blocks. (B, K, D, D) has a block per slot, (B, 1, K·D, K·D) correlates slots, (B, K·D, 1, 1) is a diagonal.
        num_steps: the number of leapfrog steps, each with one evaluation of the target.
    """
    L, B, G, N = len(point.z), *scale_tril.shape[:3]
    momentum = torch.randn(L, B, G, N, dtype=point.z.dtype, device=point.z.device)
    proposed, end_momentum, inside = leapfrog(target, point, momentum, step_size, scale_tril, num_steps)
    kinetic_lost = 0.5 * (momentum.square() - end_momentum.square()).sum((-2, -1))
    log_ratio = target.log_density(proposed) - target.log_density(point) + kinetic_lost
    acceptance = torch.where(inside, log_ratio.clamp(max=0).exp(), 0.0).nan_to_num(nan=0.0)
    accepted = torch.rand_like(acceptance) < acceptance
    moved = Point(
        torch.where(accepted[..., None, None], proposed.z, point.z),
        torch.where(accepted, proposed.log_factors, point.log_factors),
        torch.where(accepted[..., None, None], proposed.gradients, point.gradients),
    )
    return moved, HmcInfo(acceptance, accepted)


def leapfrog(
    target: Target, point: Point, momentum: Tensor, step_size: Tensor, scale_tril: Tensor, num_steps: int
) -> tuple[Point, Tensor, Tensor]:
    r"""Hamiltonian dynamics of z = S u and of u's momentum r. They preserve volume, and run backwards from -r.

        r ← r + ε/2 Sᵀ∇log π(z),    z ← z + ε S r,    r ← r + ε/2 Sᵀ∇log π(z)

    Args:
        target, point, step_size, scale_tril, num_steps: as in `hmc_step`.
        momentum: r (L, B, G, N).

    Returns:
        The end point, the momentum there, and whether the whole trajectory was inside the box and the support (L, B).
        If it was not, the end point means nothing.
    """
    start, eps = point, step_size[:, None]
    inside = torch.ones_like(point.log_factors[0], dtype=torch.bool)

    momentum = momentum + 0.5 * eps * target.force(point, scale_tril)
    for step in range(1, num_steps + 1):
        drift = torch.einsum("bgij,lbgj->lbgi", scale_tril, eps * momentum)
        z = point.z + drift.reshape(point.z.shape)
        inside = inside & (z.abs().amax((-2, -1)) <= BOX)  # false for NaN as well
        point = target.evaluate(torch.where(inside[..., None, None], z, start.z))
        inside = inside & point.log_factors.isfinite().all(0) & point.gradients.isfinite().all((0, -2, -1))
        momentum = momentum + (1.0 if step < num_steps else 0.5) * eps * target.force(point, scale_tril)
    return point, momentum, inside


def jittered(num_steps: int) -> int:
    """Draw a number of leapfrog steps between half of `num_steps` and 1.5 times it; fixed ones may be periodic."""
    half = num_steps // 2
    return int(torch.randint(num_steps - half, num_steps + half + 1, ()))
