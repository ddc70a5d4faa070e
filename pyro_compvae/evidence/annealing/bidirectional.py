"""Bidirectional Monte Carlo: log p(x) of simulated scenes, from both sides (Grosse, Ghahramani & Adams 2015)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence.annealing.chains import Annealing, TransitionProgress, anneal
from pyro_compvae.evidence.annealing.config import AnnealingConfig
from pyro_compvae.evidence.annealing.path import Path, make_plan
from pyro_compvae.evidence.density import LogJoint
from pyro_compvae.evidence.proposals.labelling import labelled
from pyro_compvae.evidence.proposals.symmetric import Proposal
from pyro_compvae.programs import leaving_no_parameters


class Sandwich(NamedTuple):
    """Stochastic bounds on log p(x) of B simulated scenes, in nats.

    By Markov's inequality they are bounds for single scenes too: each is on the wrong side by more than a nats with a
    probability of at most exp(-a).

    forward, reverse: chains from a start to the posterior, with weights of mean p(x), and chains back, 1 / p(x).
    pilot_evaluations: the pilot's evaluations of the log joint of a scene; forward and reverse count the chains' own.
    """

    forward: Annealing
    reverse: Annealing
    pilot_evaluations: int

    @property
    def lower(self) -> Tensor:
        """The lower bound (B,), which is at most log p(x) in expectation."""
        return self.forward.estimate.log_evidence

    @property
    def upper(self) -> Tensor:
        """The upper bound (B,), which is at least log p(x) in expectation."""
        return -self.reverse.estimate.log_evidence

    @property
    def width(self) -> Tensor:
        """upper - lower, (B,), which is the certificate: up to noise, neither bound is further than this from log
        p(x)."""
        return self.upper - self.lower

    @property
    def standard_error(self) -> Tensor:
        """Standard error of the width, (B,). It is optimistic, because the reverse chains share one exact draw."""
        errors = self.forward.estimate.standard_error, self.reverse.estimate.standard_error
        return torch.hypot(*errors)


def simulate(
    model: Callable[..., Any], *conditions: Tensor, num_scenes: int | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Simulate scenes from a model, so that z is an exact draw from p(z | x), which real scenes lack.

    Args:
        model: a Pyro program whose first argument is x, or None to simulate it, and which returns x.
        conditions: its further arguments: the viewpoints (B, V, 3), if it has several views.
        num_scenes: B, needed if there are no conditions.

    Returns:
        z (B, K, D), and the arguments with which the model observes these scenes: x, and the conditions.
    """
    keywords = {} if num_scenes is None else {"num_scenes": num_scenes}
    with torch.no_grad(), leaving_no_parameters():
        nodes: dict[str, Any] = poutine.trace(model).get_trace(None, *conditions, **keywords).nodes
    return nodes["z"]["value"], (nodes["_RETURN"]["value"], *conditions)


def bidirectional_log_evidence(
    log_joint: LogJoint,
    proposal: Proposal,
    z_exact: Tensor,
    config: AnnealingConfig = AnnealingConfig(),
    lower_start: Proposal | None = None,
    lower_config: AnnealingConfig | None = None,
    progress: TransitionProgress | None = None,
) -> Sandwich:
    r"""Sandwich log p(x) between annealing from a start to the posterior, and back from an exact draw.

        log 1/L Σ_l w_l  ≤  log p(x)  ≤  -log 1/L Σ_l w'_l,    E[w] = p(x),  E[w'] = 1 / p(x)

    Both hold in expectation. The way back begins at the exact draw and must not depend on it in any other way, or E[w']
    would change; its temperatures and step sizes are those of a pilot run from the start. Without ``lower_start`` both
    directions use them, and the width certifies annealing from that start, for scenes of the model at these settings.
    For real scenes it says as much as they look like simulated ones (Wu et al. 2017).

    The way forward may depend on the exact draw, since E[w | z_exact] = p(x) for any start. With a ``lower_start`` near
    the exact draw, in the mode that may be hard to find, the sandwich is narrower. It then certifies no annealing, but
    says what log p(x) is, so that other estimates can be compared with it.

    Args:
        log_joint: log p(x, z) of the scenes x that were simulated together with z_exact.
        proposal: the start, such as the prior, or the guide's posterior.
        z_exact: (B, K, D), from `simulate`; all chains that go back share it, each with its slots in another order.
        config: the effort.
        lower_start: the start of the way forward, if it differs from the end of the way back.
        lower_config: the effort of the way forward, if it differs.
        progress: called after every transition.

    Raises:
        ValueError: for a z_exact that does not fit.
        TraceError: (a ValueError) to symmetrise a model whose slots are not exchangeable.
    """
    shape = (log_joint.num_scenes, *log_joint.event_shape)
    if tuple(z_exact.shape) != shape:
        raise ArgumentError(f"z_exact: expected shape {shape}, one draw for every scene, got {tuple(z_exact.shape)}")
    if config.symmetrise:
        log_joint.check_exchangeable()  # whatever the start, since the exact draw's slots are put into other orders
    path = Path(log_joint, proposal, config.symmetrise)
    with torch.no_grad():
        plan = make_plan(path, config)
        evaluations = plan.evaluations
        if lower_start is None:
            forward = anneal(path, plan, proposal.rsample(config.num_chains), config.chunk_size, progress)
        else:
            there = lower_config or config
            near = Path(log_joint, lower_start, there.symmetrise)
            near_plan = make_plan(near, there)
            evaluations += near_plan.evaluations
            forward = anneal(near, near_plan, lower_start.rsample(there.num_chains), there.chunk_size, progress)
        exact = z_exact.to(plan.scale_tril)
        # The end of a symmetrised path has the slots in the order of q, whereas the model's slots have no order.
        if config.symmetrise:
            exact = labelled(proposal, exact, config.num_chains)
        else:
            exact = exact.expand(config.num_chains, *shape)
        reverse = anneal(path, plan.reversed(), exact, config.chunk_size, progress)
    return Sandwich(forward, reverse, evaluations)
