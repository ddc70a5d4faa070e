"""Slot models whose evidence and posterior are known exactly, and guides for them. All in float64."""

from __future__ import annotations

import math
from itertools import product

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal


class LinearGaussian:
    r"""Exchangeable slots seen through their sum.

        z_bk ~ N(0, I_D)     k = 1..K          site "z", event (K, D)
        x_b ~ N(Σ_k A z_bk + bias, s² I_M)      site "x", event (M)

    so that x_b ~ N(bias, s² I + K A Aᵀ), and z_b | x_b is Gaussian with every slot correlated with every other.
    """

    def __init__(self, num_slots: int, latent_dim: int, observed_dim: int = 3, scale: float = 1.0) -> None:
        self.num_slots, self.latent_dim, self.scale = num_slots, latent_dim, scale
        self.weight = torch.randn(observed_dim, latent_dim, dtype=torch.float64) / math.sqrt(num_slots * latent_dim)
        self.bias = torch.linspace(-1, 2, observed_dim, dtype=torch.float64)

    def __call__(self, x: Tensor) -> None:
        zero = torch.zeros(self.num_slots, self.latent_dim, dtype=torch.float64)
        with pyro.plate("scenes", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(2))
            pyro.sample("x", dist.Normal(z.sum(-2) @ self.weight.T + self.bias, self.scale).to_event(1), obs=x)

    def simulate(self, num_scenes: int) -> Tensor:
        """Images (B, M), drawn from the marginal."""
        return self.marginal().sample((num_scenes,))

    def marginal(self) -> MultivariateNormal:
        noise = self.scale**2 * torch.eye(len(self.bias), dtype=torch.float64)
        return MultivariateNormal(self.bias, noise + self.num_slots * self.weight @ self.weight.T)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x), (B,), nats."""
        return self.marginal().log_prob(x)

    def posterior(self, x: Tensor) -> MultivariateNormal:
        """p(z | x), batch shape (B,), on K·D dimensions."""
        design = self.weight.repeat(1, self.num_slots)  # (M, K·D)
        precision = torch.eye(design.shape[1], dtype=torch.float64) + design.T @ design / self.scale**2
        covariance = torch.linalg.inv(precision)
        mean = (x - self.bias) @ design @ covariance / self.scale**2
        return MultivariateNormal(mean, covariance.expand(len(x), -1, -1))


class SlotMixture:
    r"""Pixels that each belong to one slot, no one knows which: the posterior has K! modes.

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
        """Pixels (B, n), slot by slot, of slots at -1.2 to 1.6 that move a little from scene to scene."""
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


class FactorisedGuide:
    """A Pyro guide that samples "z" from a Normal which factorises over everything.

    Of a `LinearGaussian`: the exact marginals, every slot moved by a shift of its own, so that slots differ. Of a
    `SlotMixture`: one mode.

    Args:
        model: the model whose posterior this is of.
        widening: of all scales.
        shift: (K,), in standard deviations.
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
