"""The effort that annealing takes."""

from __future__ import annotations

from dataclasses import dataclass

from pyro_compvae.checks import check_counts
from pyro_compvae.errors import ArgumentError


@dataclass(frozen=True)
class AnnealingConfig:
    """How chains move from a proposal to the posterior.

    A scene costs num_chains · num_temperatures · leapfrog_steps evaluations of the log joint and its gradient, plus
    those of the pilot.

    Raises:
        ArgumentError: for numbers below 1 (for pilot chains, below 2), or an acceptance outside (0, 1).
    """

    num_chains: int = 16
    """L, chains per scene. Few are best: at the same cost more temperatures make every weight better, whereas more
    chains only average over weights of the same quality. Below 30 chains there is no k̂."""

    num_temperatures: int = 200
    """T, steps from the start to the joint; with one step, annealing is importance sampling. Starts as wide as the
    prior need about 200; from a fitted proposal a few tens are enough."""

    leapfrog_steps: int = 5
    """Mean number of leapfrog steps of a transition, each with one evaluation. The actual number is drawn at random, at
    most half of the mean away from it, since trajectories of one length may be periodic. Few are enough, since chains
    have to follow a target that hardly moves."""

    pilot_chains: int = 8
    """Chains per scene that find temperatures and step sizes and are then discarded; at least 2. With 8 a standard
    deviation is known within a quarter, which is enough to divide a path."""

    target_acceptance: float = 0.75
    """Probability of acceptance, in (0, 1), at which step sizes aim. In many dimensions 0.65 is the most efficient
    (Beskos et al. 2013), and in few dimensions it is more. Frozen step sizes had better be too small than too large."""

    symmetrise: bool = True
    """Whether draws are weighed by q̄ instead of q. With q, chains hardly ever reach the K! - 1 other copies of a mode
    of exchangeable slots, and the estimate misses up to log K! nats."""

    chunk_size: int = 64
    """Chains per scene held at a time; memory grows with it. If a GPU has less room, they are evaluated in turns."""

    def __post_init__(self) -> None:
        counts = ("num_chains", "num_temperatures", "leapfrog_steps", "chunk_size")
        check_counts(**{name: getattr(self, name) for name in counts})
        if self.pilot_chains < 2:
            raise ArgumentError(f"pilot_chains: expected at least 2, got {self.pilot_chains}")
        if not 0 < self.target_acceptance < 1:
            raise ArgumentError(
                f"target_acceptance: expected a probability between 0 and 1, got {self.target_acceptance}"
            )
