"""Slot models whose log evidence is known."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal


class LinearGaussianModel(nn.Module):
    r"""Slots that add up.

        z_bk ~ N(0, I_D),    x_b ~ N(Σ_k A z_bk, s² I_M),    so that    x_b ~ N(0, K A Aᵀ + s² I_M)

    The posterior is exchangeable, and one Gaussian: the slots share what is known of their sum.

    Args:
        matrix: A (M, D).
        num_slots: K.
        scale: s.
    """

    def __init__(self, matrix: Tensor, num_slots: int, scale: float) -> None:
        super().__init__()
        self.matrix = matrix
        self.num_slots = num_slots
        self.scale = scale

    def forward(self, x: Tensor | None = None, num_scenes: int | None = None) -> Tensor:
        B = num_scenes if x is None else len(x)
        event = self.matrix.new_zeros(self.num_slots, self.matrix.shape[1])
        with pyro.plate("scenes", B, dim=-1):
            z = pyro.sample("z", dist.Normal(event, torch.ones_like(event)).to_event(2))
            return pyro.sample("x", dist.Normal(z.sum(-2) @ self.matrix.T, self.scale).to_event(1), obs=x)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) of x (B, M), (B,)."""
        noise = self.scale**2 * torch.eye(len(self.matrix)).to(self.matrix)
        covariance = self.num_slots * self.matrix @ self.matrix.T + noise
        return MultivariateNormal(torch.zeros_like(x), covariance).log_prob(x)

    def posterior(self, x: Tensor) -> MultivariateNormal:
        """p(z | x), batch shape (B,), on K·D dimensions."""
        stacked = self.matrix.repeat(1, self.num_slots)  # (M, K·D)
        precision = torch.eye(stacked.shape[1]).to(stacked) + stacked.T @ stacked / self.scale**2
        mean = torch.linalg.solve(precision, stacked.T @ x.T / self.scale**2).T
        return MultivariateNormal(mean, precision_matrix=precision)


class SeparatedModel(nn.Module):
    r"""Two slots in one dimension, each near to one of two observed places: two modes that are far apart.

    z_b1, z_b2 ~ N(0, 1),    x_b = sorted (z_b1, z_b2) + N(0, s² I_2)

    p(x) = 2 ∫∫_{z1 < z2} N(z1) N(z2) N(x1; z1, s²) N(x2; z2, s²) ≈ 2 Π_j N(x_j; 0, 1 + s²),    x2 - x1 ≫ s
    """

    def __init__(self, scale: float = 0.1) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        event = x.new_zeros(2, 1)
        with pyro.plate("scenes", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(event, torch.ones_like(event)).to_event(2))
            return pyro.sample("x", dist.Normal(z.squeeze(-1).sort(-1).values, self.scale).to_event(1), obs=x)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) of x (B, 2), x_1 ≪ x_2."""
        return math.log(2) + Normal(0.0, math.hypot(1, self.scale)).log_prob(x).sum(-1)


class FixedGuide(nn.Module):
    """A guide whose posterior is given, whatever the scenes.

    Args:
        loc, scale: (B, K, D).
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.loc = loc
        self.scale = scale

    def posterior(self, x: Tensor) -> Normal:
        return Normal(self.loc, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("scenes", len(x), dim=-1):
            return pyro.sample("z", dist.Normal(self.loc, self.scale).to_event(2))


def linear_gaussian(num_scenes: int, dtype: torch.dtype = torch.float64) -> tuple[LinearGaussianModel, Tensor]:
    """K = 3, D = 2, M = 3, asymmetric in all; with scenes further out than the prior expects."""
    matrix = torch.tensor([[1.0, 0.3], [-0.5, 0.8], [0.2, 1.1]], dtype=dtype)
    model = LinearGaussianModel(matrix, num_slots=3, scale=0.3).eval()
    generator = torch.Generator().manual_seed(7)
    return model, 2 * torch.randn(num_scenes, 3, generator=generator, dtype=dtype) + 0.5


def rough_guide(model: LinearGaussianModel, x: Tensor) -> FixedGuide:
    """Means of the slots displaced from those of the posterior in different directions, scales that differ too."""
    K, D = model.num_slots, model.matrix.shape[1]
    posterior = model.posterior(x)
    displaced = torch.tensor([[0.5, -0.3], [-0.6, 0.1], [0.2, 0.4]]).to(x)
    factors = torch.tensor([[0.5], [0.8], [1.0]]).to(x)
    scale = posterior.variance.sqrt().reshape(-1, K, D) * factors
    return FixedGuide(posterior.mean.reshape(-1, K, D) + displaced, scale).eval()
