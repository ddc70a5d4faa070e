"""Slot models whose evidence is known, and guides for them, in float64 unless stated otherwise."""

from __future__ import annotations

import math
from itertools import product

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal


class LinearGaussian:
    r"""A model of exchangeable slots that are seen through their sum.

        z_bk ~ N(0, I_D)     k = 1..K          site "z", event (K, D)
        x_b ~ N(Σ_k A z_bk + bias, s² I_M)      site "x", event (M)

    so that x_b ~ N(bias, s² I + K A Aᵀ), and z_b | x_b is Gaussian with every slot correlated with every other.

    Args:
        num_slots: K.
        latent_dim: D, of weights that are drawn.
        observed_dim: M, of weights that are drawn.
        scale: s.
        weight: A (M, D), with a bias of 0, instead of weights that are drawn.
    """

    def __init__(
        self,
        num_slots: int,
        latent_dim: int = 2,
        observed_dim: int = 3,
        scale: float = 1.0,
        weight: Tensor | None = None,
    ) -> None:
        self.num_slots, self.scale = num_slots, scale
        if weight is None:
            weight = torch.randn(observed_dim, latent_dim, dtype=torch.float64) / math.sqrt(num_slots * latent_dim)
            self.bias = torch.linspace(-1, 2, observed_dim, dtype=torch.float64)
        else:
            self.bias = weight.new_zeros(len(weight))
        self.weight, self.latent_dim = weight, weight.shape[1]

    def __call__(self, x: Tensor | None = None, num_scenes: int | None = None) -> Tensor:
        zero = self.weight.new_zeros(self.num_slots, self.latent_dim)
        with pyro.plate("scenes", num_scenes if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(2))
            mean = z.sum(-2) @ self.weight.T + self.bias
            return pyro.sample("x", dist.Normal(mean, self.scale).to_event(1), obs=x)

    def simulate(self, num_scenes: int) -> Tensor:
        """Images (B, M), drawn from the marginal."""
        return self.marginal().sample((num_scenes,))

    def marginal(self) -> MultivariateNormal:
        noise = self.scale**2 * torch.eye(len(self.bias)).to(self.bias)
        return MultivariateNormal(self.bias, noise + self.num_slots * self.weight @ self.weight.T)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x), (B,), nats."""
        return self.marginal().log_prob(x)

    def posterior(self, x: Tensor) -> MultivariateNormal:
        """p(z | x), batch shape (B,), on K·D dimensions."""
        design = self.weight.repeat(1, self.num_slots)  # (M, K·D)
        precision = torch.eye(design.shape[1]).to(design) + design.T @ design / self.scale**2
        covariance = torch.linalg.inv(precision)
        mean = (x - self.bias) @ design @ covariance / self.scale**2
        return MultivariateNormal(mean, covariance.expand(len(x), -1, -1))


class SlotMixture:
    r"""A model of pixels that each belong to one unknown slot, so that the posterior has K! modes.

        z_bk ~ N(0, 1)                          k = 1..K            site "z", event (K, 1)
        x_bi ~ 1/K Σ_k N(z_bk, s²)              i = 1..n            site "x", event (n)

    Its evidence is an exact sum over the K^n ways to assign the pixels. Given x of `simulate` with a small s, all but
    the K! ways that agree with the truth have next to no weight.
    """

    def __init__(self, num_slots: int, scale: float, pixels_per_slot: int = 2) -> None:
        self.num_slots, self.scale, self.pixels_per_slot = num_slots, scale, pixels_per_slot

    def __call__(self, x: Tensor) -> None:
        zero = torch.zeros(self.num_slots, 1, dtype=torch.float64)
        with pyro.plate("scenes", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(2))
            means = z.squeeze(-1).unsqueeze(-2).expand(*z.shape[:-2], x.shape[-1], self.num_slots)
            pixels = dist.MixtureSameFamily(
                dist.Categorical(logits=torch.zeros_like(means)), dist.Normal(means, self.scale)
            )
            pyro.sample("x", pixels.to_event(1), obs=x)

    def simulate(self, num_scenes: int) -> Tensor:
        """Simulate pixels (B, n), slot by slot, of slots at -1.2 to 1.6 that move a little from scene to scene."""
        slots = torch.linspace(-1.2, 1.6, self.num_slots, dtype=torch.float64)
        slots = slots + 0.1 * torch.randn(num_scenes, self.num_slots, dtype=torch.float64)
        means = slots.repeat_interleave(self.pixels_per_slot, dim=1)
        return means + self.scale * torch.randn_like(means)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x), (B,), nats."""
        n, variance = x.shape[1], self.scale**2
        assignments = torch.tensor(list(product(range(self.num_slots), repeat=n)))
        members = torch.nn.functional.one_hot(assignments, self.num_slots).double()  # (K^n, n, K)
        counts = members.sum(1)
        sums = torch.einsum("bi,aik->bak", x, members)
        # Of n_k pixels of one slot: N(0, s² I + 1 1ᵀ), by the matrix determinant lemma and Sherman & Morrison.
        log_det = n * math.log(variance) + (counts / variance).log1p().sum(-1)
        squares = x.square().sum(-1, keepdim=True) / variance - (sums.square() / (variance + counts)).sum(-1) / variance
        terms = -0.5 * (squares + log_det + n * math.log(2 * math.pi))
        return terms.logsumexp(-1) - n * math.log(self.num_slots)

    def mode(self, x: Tensor) -> Normal:
        """p(z | x, the pixels belong to the slots in order), batch shape (B, K, 1): one of the K! modes."""
        variance = 1 / (1 + self.pixels_per_slot / self.scale**2)
        sums = x.unflatten(1, (self.num_slots, self.pixels_per_slot)).sum(-1, keepdim=True)
        return Normal(variance * sums / self.scale**2, math.sqrt(variance))


class SeparatedModel(nn.Module):
    r"""A model of two slots in one dimension, each near one of two observed places, with two modes that are far apart.

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


class FactorisedGuide:
    """A Pyro guide that samples "z" from a Normal which factorises over everything.

    For a `LinearGaussian` it has the exact marginals, with every slot moved by another shift, so that slots differ. For
    a `SlotMixture` it is one mode.

    Args:
        model: the model whose posterior the guide approximates.
        widening: the factor on all scales.
        shift: the shifts (K,), in standard deviations.
    """

    def __init__(self, model: LinearGaussian | SlotMixture, widening: float = 1.0, shift: Tensor | None = None) -> None:
        self.model, self.widening, self.shift = model, widening, shift

    def posterior(self, x: Tensor) -> Normal:
        if isinstance(self.model, SlotMixture):
            exact = self.model.mode(x)
            loc, scale = exact.loc, exact.scale.expand_as(exact.loc)
        else:
            joint = self.model.posterior(x)
            event = (self.model.num_slots, self.model.latent_dim)
            loc, scale = joint.mean.unflatten(-1, event), joint.stddev.unflatten(-1, event)
        if self.shift is not None:
            loc = loc + self.shift.unsqueeze(-1) * scale
        return Normal(loc, self.widening * scale)

    def __call__(self, x: Tensor) -> None:
        q = self.posterior(x)
        with pyro.plate("scenes", len(x), dim=-1):
            pyro.sample("z", dist.Normal(q.loc, q.scale).to_event(2))


class FixedGuide(nn.Module):
    """A guide whose posterior is given, whatever the scenes.

    Args:
        loc, scale: the posterior's parameters, (B, K, D).
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


def linear_gaussian(num_scenes: int, dtype: torch.dtype = torch.float64) -> tuple[LinearGaussian, Tensor]:
    """A model with K = 3, D = 2, M = 3, asymmetric in all of them, and scenes further out than the prior expects."""
    matrix = torch.tensor([[1.0, 0.3], [-0.5, 0.8], [0.2, 1.1]], dtype=dtype)
    model = LinearGaussian(num_slots=3, scale=0.3, weight=matrix)
    generator = torch.Generator().manual_seed(7)
    return model, 2 * torch.randn(num_scenes, 3, generator=generator, dtype=dtype) + 0.5


def rough_guide(model: LinearGaussian, x: Tensor) -> FixedGuide:
    """A guide whose means are displaced from the posterior's in different directions, and whose scales differ too."""
    K, D = model.num_slots, model.latent_dim
    posterior = model.posterior(x)
    displaced = torch.tensor([[0.5, -0.3], [-0.6, 0.1], [0.2, 0.4]]).to(x)
    factors = torch.tensor([[0.5], [0.8], [1.0]]).to(x)
    scale = posterior.variance.sqrt().reshape(-1, K, D) * factors
    return FixedGuide(posterior.mean.reshape(-1, K, D) + displaced, scale).eval()
