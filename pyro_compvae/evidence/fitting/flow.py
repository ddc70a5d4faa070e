"""Normalising flows fitted to the posterior of every scene, starting at a fitted Gaussian.

The layers are our own because every scene has its own weights: B flows take one batched matrix product per layer. The
transforms of Pyro and of zuko have one set of weights, so that B scenes would need B modules, evaluated one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_compvae.checks import check_counts
from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence.density import LogJoint, value_and_gradient
from pyro_compvae.evidence.fitting.convergence import check_held, step_share
from pyro_compvae.evidence.fitting.gaussian import Fit, finite_draws
from pyro_compvae.evidence.proposals.elliptical import Elliptical
from pyro_compvae.evidence.proposals.symmetric import JointProposal, log_mean_over_permutations
from pyro_compvae.precision import exact_products

LARGEST_LOG_SCALE = 2.0
"""Largest |log scale| of a coupling layer, which keeps draws within the range of float32."""


class Coupling(NamedTuple):
    """Affine coupling layers of B scenes (Dinh et al. 2017), with separate weights for each scene.

    A layer leaves the coordinates `kept` as they are, and shifts and scales the others by functions of them.

    kept, moved: for each of M layers, the indices of the two halves of the N coordinates.
    weights: for each layer, those of a network with one hidden layer: (B, n, H), (B, 1, H), (B, H, 2 n'), (B, 1, 2 n').
    """

    kept: list[Tensor]
    moved: list[Tensor]
    weights: list[tuple[Tensor, ...]]

    @classmethod
    def identity(cls, num_scenes: int, dimensions: int, layers: int, hidden: int, device: torch.device) -> Coupling:
        """Layers that do nothing yet. Pairs of layers divide the coordinates at random and exchange the two halves."""
        kept: list[Tensor] = []
        moved: list[Tensor] = []
        weights: list[tuple[Tensor, ...]] = []
        like: Any = {"device": device, "dtype": torch.float32}
        for layer in range(layers):
            if layer % 2 == 0:
                first, second = torch.randperm(dimensions, device=device).tensor_split(2)
            else:
                first, second = moved[-1], kept[-1]
            kept.append(first)
            moved.append(second)
            inner = torch.randn(num_scenes, len(first), hidden, **like) / math.sqrt(len(first))
            bias = torch.zeros(num_scenes, 1, hidden, **like)
            outer = torch.zeros(num_scenes, hidden, 2 * len(second), **like)
            shift = torch.zeros(num_scenes, 1, 2 * len(second), **like)
            weights.append((inner, bias, outer, shift))
        return cls(kept, moved, weights)

    def parameters(self) -> list[Tensor]:
        """All weights."""
        return [weight for layer in self.weights for weight in layer]

    def detached(self) -> Coupling:
        """The same layers, through which no gradient reaches the weights."""
        return self._replace(weights=[tuple(weight.detach() for weight in layer) for layer in self.weights])

    def forward(self, u: Tensor) -> Tensor:
        """Apply all layers to u (B, L, N)."""
        for layer in range(len(self.weights)):
            shift, log_scale = self._shift_and_log_scale(layer, u)
            u = u.index_copy(-1, self.moved[layer], u[..., self.moved[layer]] * log_scale.exp() + shift)
        return u

    def inverse(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the inverse of all layers to u (B, L, N); returns the result and the log determinant (B, L)."""
        log_det = torch.zeros_like(u[..., 0])
        for layer in reversed(range(len(self.weights))):
            shift, log_scale = self._shift_and_log_scale(layer, u)
            u = u.index_copy(-1, self.moved[layer], (u[..., self.moved[layer]] - shift) * (-log_scale).exp())
            log_det = log_det - log_scale.sum(-1)
        return u, log_det

    def _shift_and_log_scale(self, layer: int, u: Tensor) -> tuple[Tensor, Tensor]:
        inner, bias, outer, shift = self.weights[layer]
        hidden = torch.tanh(torch.baddbmm(bias, u[..., self.kept[layer]], inner))
        shifts, raw = torch.baddbmm(shift, hidden, outer).chunk(2, dim=-1)
        return shifts, LARGEST_LOG_SCALE * torch.tanh(raw / LARGEST_LOG_SCALE)


class FlowProposal:
    """z = loc + S T(ε) with ε ~ N(0, I) and coupling layers T; slots may depend on one another in any way.

    Args:
        gaussian: loc and S, of batch shape (B,), on K·D dimensions.
        coupling: the layers T.
        num_slots: K.
    """

    def __init__(self, gaussian: Elliptical, coupling: Coupling, num_slots: int) -> None:
        self.gaussian = gaussian
        self.coupling = coupling
        self.num_slots = num_slots
        self.inverse = gaussian.inverse()

    @exact_products()
    def rsample(self, num_samples: int) -> Tensor:
        """Draws z (L, B, K, D), differentiable."""
        loc = self.gaussian.loc
        noise = torch.randn(len(loc), num_samples, loc.shape[-1], device=loc.device, dtype=torch.float32)
        u = self.coupling.forward(noise).double()
        z = loc + torch.einsum("bij,blj->lbi", self.gaussian.scale_tril, u)
        return z.unflatten(-1, (self.num_slots, -1))

    @exact_products()
    def log_prob(self, z: Tensor) -> Tensor:
        """The log-density of z (L, B, K, D), (L, B) in nats."""
        u = torch.einsum("bij,lbj->bli", self.inverse, z.flatten(-2) - self.gaussian.loc)
        noise, log_det = self.coupling.inverse(u.float())
        squares = noise.double().square().sum(-1)
        return self.gaussian.log_prob_of_squares(squares.mT) + log_det.double().mT

    def symmetric_log_prob(self, z: Tensor) -> Tensor:
        """log q̄(z) of z (L, B, K, D), (L, B) in nats, by inverting all layers for every permutation.

        Raises:
            ValueError: for more than 8 slots.
        """
        return log_mean_over_permutations(self.log_prob, z)


class FlowFit(NamedTuple):
    """A fitted flow of every scene.

    gaussian: the Gaussian that the flow transforms.
    coupling: its layers.
    elbo: (steps, B), nats, a noisy estimate per step.
    """

    gaussian: Fit
    coupling: Coupling
    elbo: Tensor

    def proposal(self) -> FlowProposal:
        """The fit as a proposal."""
        base = self.gaussian.proposal()
        assert isinstance(base, JointProposal)
        return FlowProposal(base.joint, self.coupling.detached(), base.num_slots)


@dataclass(frozen=True)
class FlowConfig:
    """How a flow is built and fitted.

    Raises:
        ArgumentError: for numbers out of range.
    """

    steps: int = 1000
    """Steps of Adam; a flow needs more of them than a Gaussian, which moves by natural gradients."""

    num_samples: int = 16
    """L, draws per scene and step."""

    learning_rate: float = 1.5e-3
    """Adam's learning rate at the start; it falls to a twentieth along a cosine."""

    layers: int = 6
    """M, the number of coupling layers; every coordinate is moved by half of them."""

    hidden: int = 64
    """H, the number of hidden units in every coupling layer's network, which has one hidden layer."""

    chunk_size: int = 50
    """Draws per scene held at a time; memory grows with it. If a GPU has less room, they are evaluated in turns."""

    held: float = 0.0
    """Share of the steps before the learning rate falls, as in `FitConfig`."""

    def __post_init__(self) -> None:
        counts = ("steps", "num_samples", "layers", "hidden", "chunk_size")
        check_counts(**{name: getattr(self, name) for name in counts})
        check_held(self.held)


@exact_products()
def fit_flow(log_joint: LogJoint, gaussian: Fit, config: FlowConfig = FlowConfig()) -> FlowFit:
    """Fit flows to the posteriors of all scenes at once by their ELBO, starting at a fitted Gaussian.

    Adam is used, because the networks have no coordinates in which a natural gradient would be as cheap as for a
    Gaussian. The gradient is the path derivative (Roeder et al. 2017): log q is differentiated through its draws only,
    so that the gradient is zero if q is the posterior. Pyro's transforms and autoguides hold one flow, not one per
    scene, and would have to be fitted scene by scene.

    Args:
        log_joint: log p(x, z) of the scenes.
        gaussian: a fit of the family "full".
        config: the effort.

    Raises:
        ValueError: for a fit of another family.
        FloatingPointError: if all draws of a scene have a density or a gradient that is not finite.
    """
    base = gaussian.proposal()
    if not isinstance(base, JointProposal):
        raise ArgumentError("gaussian: expected a fit of the family 'full', which flows sit on, got a smaller one")
    B, N = base.joint.loc.shape
    coupling = Coupling.identity(B, N, config.layers, config.hidden, base.joint.loc.device)
    for weight in coupling.parameters():
        weight.requires_grad_()
    optimiser = torch.optim.Adam(coupling.parameters(), lr=config.learning_rate)
    flow = FlowProposal(base.joint, coupling, base.num_slots)
    frozen = FlowProposal(base.joint, coupling.detached(), base.num_slots)
    elbos = []
    with torch.enable_grad():
        for step in range(config.steps):
            z = flow.rsample(config.num_samples)
            log_p, gradient = value_and_gradient(log_joint, z, config.chunk_size)
            finite = finite_draws(log_p, gradient)
            log_q = frozen.log_prob(z)
            elbos.append((log_p - log_q).detach().mean(0))
            surrogate = (gradient.masked_fill(~finite[..., None, None], 0.0) * z).sum((-2, -1)) - log_q
            weights = finite / finite.sum(0)
            optimiser.zero_grad()
            (-(weights * surrogate).sum()).backward()
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * step_share(step, config.steps, config.held)
            optimiser.step()
    return FlowFit(gaussian, coupling, torch.stack(elbos))
