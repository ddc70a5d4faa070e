r"""The path from a proposal to the posterior, and its temperatures and step sizes, which a pilot run finds.

    f_β(z) = q(z) (p(x, z) / q̄(z))^β,    0 ≤ β ≤ 1,      ∫ f_0 = 1,    ∫ f_1 = p(x)

The usual geometric path is q̄^(1-β) p^β, and this one is the same if q = q̄. But chains on the usual path have to start
from draws of q̄ and need transitions that treat all slots alike, whereas the covariance of a guide's posterior, which
the leapfrog needs, differs between slots. Here the draws are those of q, all transitions are allowed, and the end is
the posterior with its slots in the order that q gives them: f_1 = p q / q̄ integrates to p(x), since p and q̄ are
symmetric and the mean of q(z_π) / q̄(z) over all permutations is 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence.annealing.config import AnnealingConfig
from pyro_compvae.evidence.annealing.hmc import LogDensity, Point, Target, hmc_step, jittered
from pyro_compvae.evidence.density import symmetric_density
from pyro_compvae.evidence.proposals.symmetric import ExchangeableProposal, FactorisedProposal, JointProposal, Proposal

PILOT_STEP = 0.5
"""Standard deviation in nats that log weights of the pilot chains gain from one temperature to the next."""

PILOT_TRANSITIONS = 4
"""HMC transitions of the pilot at every temperature, each followed by an update of the step sizes."""

FIRST_TEMPERATURE, SLOWEST_GROWTH = 1e-7, 1.25
"""The pilot's lowest temperature and the slowest growth from one to the next, so that it has at most 75 of them."""

GAIN = 0.5
"""Change of the log step size per unit of acceptance above the target."""


class JointDensity(Protocol):
    """The log-density at the end of a path, such as a `LogJoint`."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape (K, D) of a scene's slots."""

    def __call__(self, z: Tensor) -> Tensor:
        """The log-density of z (L, B, K, D), (L, B) in nats, differentiable."""


class Path:
    """The densities f_β, whose factors q, q̄ and p(x, z) are evaluated once for all temperatures.

    Args:
        log_joint: log p(x, z) of the scenes.
        start: the proposal q.
        symmetrise: whether q̄ has all K! copies of every mode; otherwise q̄ is q.

    Raises:
        TraceError: if it has, and the slots of a `LogJoint` are not exchangeable.
    """

    def __init__(self, log_joint: JointDensity, start: Proposal, symmetrise: bool = True) -> None:
        base: LogDensity = symmetric_density(log_joint, start) if symmetrise else start.log_prob
        self.factors: tuple[LogDensity, ...] = (start.log_prob, base, log_joint)
        self.start = start
        self.symmetrise = symmetrise
        self.event_shape = log_joint.event_shape
        self.is_exchangeable = isinstance(start, ExchangeableProposal)

    def at(self, beta: Tensor) -> Target:
        """f_β at temperatures β (B,)."""
        return Target(self.factors, torch.stack((torch.ones_like(beta), -beta, beta)))

    @staticmethod
    def log_ratio(point: Point) -> Tensor:
        """U = log p(x, z) - log q̄(z), (L, B), the derivative of log f_β with respect to β."""
        return point.log_factors[2] - point.log_factors[1]

    def scale_tril(self) -> Tensor:
        """The coordinates of the leapfrog (see `hmc_step`), in which the start is spherical if it is a Gaussian."""
        if isinstance(self.start, FactorisedProposal):
            return self.start.slots.scale_tril
        if isinstance(self.start, JointProposal):
            return self.start.joint.scale_tril.unsqueeze(1)
        z = self.start.rsample(1)
        return torch.ones(z.shape[1], math.prod(self.event_shape), 1, 1, dtype=z.dtype, device=z.device)


class Plan(NamedTuple):
    """How chains move along a path. It is frozen before they start, since the weights would be biased otherwise.

    temperatures: (T + 1, B), from 0 to 1 or back.
    step_sizes: (T - 1, B, N), those of a block's coordinates at the temperatures in between.
    scale_tril: (B, G, N, N), the coordinates of the leapfrog.
    leapfrog_steps: the mean number per transition.
    evaluations: how often the pilot evaluated the log joint of a scene.
    """

    temperatures: Tensor
    step_sizes: Tensor
    scale_tril: Tensor
    leapfrog_steps: int
    evaluations: int

    def reversed(self) -> Plan:
        """The plan for the way back."""
        return self._replace(temperatures=self.temperatures.flip(0), step_sizes=self.step_sizes.flip(0))


def make_plan(path: Path, config: AnnealingConfig, temperatures: Tensor | None = None) -> Plan:
    r"""Plan a path by sending pilot chains along it, which are then discarded.

    With transitions that mix well, the variance of log weights is Σ_t Δβ_t² Var_β(U). For a given number of
    temperatures it is least if all Δβ sd_β(U) are equal (Gelman & Meng 1998: the speed along the path is constant). So
    the pilot measures sd_β(U) of every scene on its way, and the temperatures are quantiles of ∫ sd_β(U) dβ. The step
    sizes of every scene follow the acceptance of its pilot chains, and are interpolated between the pilot's
    temperatures.

    A start that is the same for all slots, such as the prior, has no information on the posterior, which is narrow in
    some latent dimensions and as wide as the prior in others. With such a start the step in coordinate u_d, in which
    the start is spherical, is proportional to the mean of (∂ log f_β / ∂u_kd)² over chains and slots, to the power of
    -1/2. If f_β were Gaussian, this would be the scale of a coordinate given all others; it is at most 1, the start's
    scale.

    Args:
        path: the path from start to joint.
        config: the numbers of temperatures, leapfrog steps and pilot chains. With one temperature nothing is left to
            plan, and there is no pilot.
        temperatures: (T + 1,) or (T + 1, B), increasing from 0 to 1; by default the pilot finds them.

    Raises:
        ValueError: for temperatures that do not fit, or do not rise from 0 to 1.
    """
    scale_tril = path.scale_tril()
    B = len(scale_tril)
    if temperatures is not None:
        temperatures = _checked(temperatures, config.num_temperatures, B).to(scale_tril)
    if config.num_temperatures == 1:
        ends = torch.tensor([[0.0], [1.0]]).to(scale_tril).expand(2, B)
        return Plan(ends, ends[:0].unsqueeze(-1), scale_tril, config.leapfrog_steps, 0)
    knots = _pilot(path, scale_tril, config)
    if temperatures is None:
        speed = (knots.spreads[1:] + knots.spreads[:-1]) / 2
        length = torch.cumsum(knots.temperatures.diff(dim=0) * speed, dim=0)
        length = torch.cat((torch.zeros_like(length[:1]), length))  # ∫ sd_β(U) dβ up to every knot
        fractions = torch.linspace(0, 1, config.num_temperatures + 1, dtype=torch.float32).to(scale_tril).unsqueeze(1)
        temperatures = _interpolate(fractions * length[-1], length, knots.temperatures)
        temperatures[0], temperatures[-1] = 0.0, 1.0  # exactly, without rounding
    step_sizes = _interpolate(temperatures[1:-1], knots.temperatures, knots.log_step_sizes).exp()
    return Plan(temperatures, step_sizes, scale_tril, config.leapfrog_steps, config.pilot_chains * knots.evaluations)


class _Knots(NamedTuple):
    """What the pilot found at its M temperatures.

    temperatures, spreads: (M, B).
    log_step_sizes: (M, B, N).
    evaluations: evaluations of the log joint by every chain.
    """

    temperatures: Tensor
    spreads: Tensor
    log_step_sizes: Tensor
    evaluations: int


def _pilot(path: Path, scale_tril: Tensor, config: AnnealingConfig) -> _Knots:
    beta = scale_tril.new_zeros(len(scale_tril))
    point = path.at(beta).evaluate(path.start.rsample(config.pilot_chains))
    # This step size suits a spherical Gaussian of K·D dimensions, from which the path starts.
    log_step = torch.full_like(beta, -0.25 * math.log(math.prod(path.event_shape)))
    log_scale = torch.zeros_like(scale_tril[:, 0, 0])  # (B, N)
    spread, evaluations = path.log_ratio(point).std(0), 1
    temperatures, spreads, log_steps = [beta], [spread], []
    while (beta < 1).any():
        slowest = (SLOWEST_GROWTH * beta).clamp(min=FIRST_TEMPERATURE)
        # A spread of zero or NaN carries no information; the temperature then grows as slowly as it may.
        wanted = torch.where(spread > 0, beta + PILOT_STEP / spread, slowest)
        beta = torch.maximum(wanted, slowest).clamp(max=1)
        precisions = []
        for _ in range(PILOT_TRANSITIONS):
            num_steps = jittered(config.leapfrog_steps)
            step_size = (log_step.unsqueeze(1) + log_scale).exp()
            point, info = hmc_step(path.at(beta), point, step_size, scale_tril, num_steps)
            log_step = log_step + GAIN * (info.acceptance.mean(0) - config.target_acceptance)
            evaluations += num_steps
            if path.is_exchangeable:
                force = path.at(beta).force(point, scale_tril).nan_to_num(0, 0, 0)  # chains outside the support
                precisions.append(force.square().mean((0, 2)))
        spread = path.log_ratio(point).std(0)
        temperatures.append(beta)
        spreads.append(spread)
        log_steps.append(log_step.unsqueeze(1) + log_scale)
        if precisions:
            log_scale = -0.5 * torch.stack(precisions).mean(0).clamp(min=1).log()
    log_steps.insert(0, log_steps[0])  # there are no transitions at β = 0
    finite = torch.stack(spreads).nan_to_num(nan=0.0, posinf=0.0).clamp(min=1e-12)
    return _Knots(torch.stack(temperatures), finite, torch.stack(log_steps), evaluations)


def _interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Interpolate linearly at x (T, B) between increasing knots (M, B) with values (M, B, ...); returns (T, B, ...)."""
    right = torch.searchsorted(knots.T.contiguous(), x.T.contiguous()).T.clamp(1, len(knots) - 1)
    x0, x1 = knots.gather(0, right - 1), knots.gather(0, right)
    weight = ((x - x0) / (x1 - x0).clamp(min=torch.finfo(x.dtype).tiny)).clamp(0, 1)
    scene = torch.arange(knots.shape[1], device=knots.device)
    weight = weight.reshape(*weight.shape, *[1] * (values.dim() - 2))
    return torch.lerp(values[right - 1, scene], values[right, scene], weight)


def _checked(temperatures: Tensor, num_temperatures: int, num_scenes: int) -> Tensor:
    wanted = [(num_temperatures + 1,), (num_temperatures + 1, num_scenes)]
    if tuple(temperatures.shape) not in wanted:
        raise ArgumentError(f"temperatures: expected shape {wanted[0]} or {wanted[1]}, got {tuple(temperatures.shape)}")
    rises = bool((temperatures.diff(dim=0) >= 0).all())
    if not (rises and bool((temperatures[0] == 0).all()) and bool((temperatures[-1] == 1).all())):
        raise ArgumentError("temperatures: expected to rise from 0 to 1, got other values")
    return temperatures.reshape(num_temperatures + 1, -1).expand(-1, num_scenes)
