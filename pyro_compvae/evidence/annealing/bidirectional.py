"""Bidirectional Monte Carlo: log p(x) of simulated scenes, from both sides (Grosse, Ghahramani & Adams 2015)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence.annealing.chains import Annealing, Progress, anneal
from pyro_compvae.evidence.annealing.path import Path, make_plan
from pyro_compvae.evidence.density import LogJoint
from pyro_compvae.evidence.estimate import EvidenceEstimate
from pyro_compvae.evidence.importance import check_counts
from pyro_compvae.evidence.proposals.labelling import labelled
from pyro_compvae.evidence.proposals.symmetric import Proposal
from pyro_compvae.programs import leaving_no_parameters


class Sandwich(NamedTuple):
    """Stochastic bounds on log p(x) of B simulated scenes, in nats.

    Markov's inequality makes them bounds for single scenes too: either is on the wrong side by more than a nats with a
    probability of at most exp(-a).

    forward, reverse: from a start to the posterior, weights of mean p(x), and back, weights of mean 1 / p(x).
    pilot_evaluations: of the log joint of a scene; those of the chains are counted in forward and reverse.
    """

    forward: Annealing
    reverse: Annealing
    pilot_evaluations: int

    @property
    def lower_estimate(self) -> EvidenceEstimate:
        """The usual estimate, as of `annealed_log_evidence`."""
        return self.forward.estimate

    @property
    def lower(self) -> Tensor:
        """At most log p(x) in expectation, (B,)."""
        return self.forward.estimate.log_evidence

    @property
    def upper(self) -> Tensor:
        """At least log p(x) in expectation, (B,)."""
        return -self.reverse.estimate.log_evidence

    @property
    def width(self) -> Tensor:
        """upper - lower, (B,): the certificate. Neither is further than this from log p(x), up to noise."""
        return self.upper - self.lower

    @property
    def standard_error(self) -> Tensor:
        """Of width, (B,); of chains that share one exact draw in the reverse direction, so it is optimistic."""
        errors = self.forward.estimate.standard_error, self.reverse.estimate.standard_error
        return torch.hypot(*errors)


def simulate(
    model: Callable[..., Any], *conditions: Tensor, num_scenes: int | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Scenes from a model: z is then an exact draw from p(z | x), the one thing that real scenes lack.

    Args:
        model: a Pyro program whose first argument is x, or None to simulate it, and which returns x.
        conditions: what else it is called with: the viewpoints (B, V, 3), if it has several views.
        num_scenes: B, if the conditions do not tell.

    Returns:
        z (B, K, D), and what the model is called with to observe the scenes: x, and the conditions.
    """
    keywords = {} if num_scenes is None else {"num_scenes": num_scenes}
    with torch.no_grad(), leaving_no_parameters():
        nodes: dict[str, Any] = poutine.trace(model).get_trace(None, *conditions, **keywords).nodes
    return nodes["z"]["value"], (nodes["_RETURN"]["value"], *conditions)


def bidirectional_log_evidence(
    log_joint: LogJoint,
    z_exact: Tensor,
    start: Proposal,
    num_chains: int = 16,
    num_temperatures: int = 200,
    leapfrog_steps: int = 5,
    symmetrise: bool = True,
    temperatures: Tensor | None = None,
    pilot_chains: int = 8,
    target_acceptance: float = 0.75,
    chunk_size: int = 64,
    progress: Progress | None = None,
    lower_start: Proposal | None = None,
    lower_chains: int = 128,
    lower_temperatures: int = 15,
) -> Sandwich:
    r"""Sandwich log p(x) between annealing from a start to the posterior, and back from an exact draw.

        log 1/L Σ_l w_l  ≤  log p(x)  ≤  -log 1/L Σ_l w'_l,    E[w] = p(x),  E[w'] = 1 / p(x)

    each in expectation. The way back must know nothing of the exact draw but that it begins there, or E[w'] would be
    another: its temperatures and step sizes are those of a pilot run from the start. Without ``lower_start`` both ways
    have them, and the width certifies annealing from that start, for scenes of the model at these settings; for real
    scenes it is evidence as far as they look like simulated ones (Wu et al. 2017).

    The way there is free to know it, since E[w | z_exact] = p(x) for whatever start. With a ``lower_start`` near the
    exact draw, in the mode that may be hard to find, the sandwich is narrower. Then it certifies no annealing, but says
    what log p(x) is, for other estimates to be held against.

    Args:
        log_joint: of the scenes x that were simulated together with z_exact.
        z_exact: (B, K, D), as of `simulate`.
        start: such as the guide's posterior, `normal_proposal(guide.posterior(*arguments))`.
        num_chains: L; all that go back share z_exact, its slots in orders of their own.
        num_temperatures, leapfrog_steps, symmetrise, temperatures: as of `annealed_log_evidence`.
        pilot_chains, target_acceptance, chunk_size, progress: as there.
        lower_start, lower_chains, lower_temperatures: of the way there, if it is another than that back.

    Raises:
        ValueError: for numbers below 1, temperatures that do not rise from 0 to 1, or a z_exact that does not fit.
    """
    check_counts(num_chains=num_chains, chunk_size=chunk_size, lower_chains=lower_chains)
    shape = (log_joint.num_scenes, *log_joint.event_shape)
    if tuple(z_exact.shape) != shape:
        raise ArgumentError(f"z_exact: expected shape {shape}, one draw for every scene, got {tuple(z_exact.shape)}")
    path = Path(log_joint, start, symmetrise)
    with torch.no_grad():
        plan = make_plan(path, num_temperatures, leapfrog_steps, temperatures, pilot_chains, target_acceptance)
        evaluations = plan.evaluations
        if lower_start is None:
            forward = anneal(path, plan, start.rsample(num_chains), chunk_size, progress)
        else:
            near = Path(log_joint, lower_start, symmetrise)
            there = make_plan(near, lower_temperatures, leapfrog_steps, None, pilot_chains, target_acceptance)
            evaluations += there.evaluations
            forward = anneal(near, there, lower_start.rsample(lower_chains), chunk_size, progress)
        exact = z_exact.to(plan.scale_tril)
        # The end of a symmetrised path has the slots in the order of q, those of the model are in none.
        exact = labelled(start, exact, num_chains) if symmetrise else exact.expand(num_chains, *shape)
        reverse = anneal(path, plan.reversed(), exact, chunk_size, progress)
    return Sandwich(forward, reverse, evaluations)
