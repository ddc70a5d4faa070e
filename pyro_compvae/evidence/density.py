"""Pyro programs as densities, with one number per scene instead of one per batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_compvae.device import memory_of
from pyro_compvae.evidence.exchange import check_exchangeable
from pyro_compvae.evidence.independence import check_independent, rounding_of, two_draws
from pyro_compvae.evidence.proposals.symmetric import ExchangeableProposal, Proposal
from pyro_compvae.evidence.trace import (
    TraceError,
    check_eval,
    particles_trace,
    per_scene_log_prob,
    prototype,
    sample_sites,
    scenes_frame,
)
from pyro_compvae.precision import exact_products

GRADIENT = 3
"""The cost of a log joint with its gradient, in evaluations of the log joint."""


class LogJoint:
    """log p(x, z) of every scene as a function of z, for a Pyro model whose only latent site is "z".

    Args:
        model: the model in eval mode; its sites lie in the plate "scenes", and all but "z" are observed.
        arguments: the model's arguments: the images, and the viewpoints if it has several views.

    Attributes:
        num_scenes, event_shape, dtype: those of "z": B, (K, D) for the models of this package, and its type.
        evaluated: a function that is called after evaluations with the number of draws, in which a gradient counts for
            `GRADIENT` draws; it may be set, to show progress.

    Raises:
        TraceError: if the model is not of that kind.
    """

    def __init__(self, model: Callable[..., Any], *arguments: Tensor) -> None:
        check_eval(model, "model")
        self.model = model
        self.arguments = arguments
        self._nesting, trace = prototype(model, arguments, "model")
        latent = {name: site for name, site in sample_sites(trace) if not site["is_observed"]}
        self._typical = self._lay_out(latent)
        self._room: int | None = None
        self.evaluated: Callable[[int], object] = lambda evaluations: None
        self._exchangeable = False
        self._rounding = rounding_of(trace)
        with torch.no_grad():
            check_independent(lambda: self._trace(two_draws(self._typical)), model, arguments, self._nesting, latent)

    def _lay_out(self, latent: dict[str, Any]) -> Tensor:
        """Find out how z consists of the latent sites of a trace; returns the trace's z, (1, B, K, D)."""
        if list(latent) != ["z"]:
            raise TraceError(f'model: expected the latent site "z" and no other, got {list(latent)}')
        site = latent["z"]
        self.event_shape = tuple(site["fn"].event_shape)
        self._scenes_dim = scenes_frame("z", site, "model").dim
        self.num_scenes = site["fn"].batch_shape[self._scenes_dim]
        self.dtype = site["value"].dtype
        return site["value"].detach().reshape(1, self.num_scenes, *self.event_shape)

    def __call__(self, z: Tensor) -> Tensor:
        """log p(x, z) in nats, (L, B) in float64 for z (L, B, K, D), differentiable with respect to z.

        If no gradient is needed, as many draws are evaluated at a time as a GPU has room for.
        """
        if z.requires_grad and torch.is_grad_enabled():
            log_p = self._evaluate(z)
            self.evaluated(GRADIENT * len(z))
            return log_p
        parts = z.split(self.draws_that_fit(len(z)))
        with naming_memory(*parts[0].shape[:2]):
            log_p = torch.cat([self._evaluate(part) for part in parts])
        self.evaluated(len(z))
        return log_p

    def _evaluate(self, z: Tensor) -> Tensor:
        return per_scene_log_prob(self._trace(z), len(z), self._nesting, "model").double()

    def draws_that_fit(self, wanted: int) -> int:
        """How many draws of all scenes to evaluate at a time, with their gradients: as many as are wanted, or as many
        as fit into half of the GPU memory that was free at the first call. The number of draws itself does not depend
        on this."""
        if self._room is None:
            self._room = self._measure_room()
        return min(wanted, self._room)

    def _measure_room(self) -> int:
        leaf = self._typical.double().requires_grad_()

        def evaluate() -> None:
            with torch.enable_grad(), exact_products(), naming_memory(*leaf.shape[:2]):
                torch.autograd.grad(self._evaluate(leaf).sum(), leaf)

        needed, free = memory_of(evaluate, leaf.device)
        return sys.maxsize if needed == 0 else max(1, free // (2 * needed))

    @torch.no_grad()
    def check_exchangeable(self) -> None:
        """Refuse a model whose log joint changes if the slots change places, so that q̄ must not weigh draws from q.

        Raises:
            TraceError: for such a model.
        """
        if not self._exchangeable:
            with naming_memory(*self._typical.shape[:2]):
                check_exchangeable(self._evaluate, self._typical, self._rounding)
            self._exchangeable = True

    def terms(self, z: Tensor) -> dict[str, Tensor]:
        """The terms of log p(x, z) at z (L, B, K, D) by site: (L, B), or (L, V, B) for sites in a plate of views."""
        return {name: site["log_prob"].double() for name, site in sample_sites(self._trace(z))}

    def _trace(self, z: Tensor) -> poutine.Trace:
        model = poutine.condition(self.model, self._values(z))
        return particles_trace(model, self.arguments, len(z), self._nesting)

    def _values(self, z: Tensor) -> dict[str, Tensor]:
        """The values of the latent sites at z."""
        L, B = z.shape[:2]
        batch_shape = [1] * self._nesting
        batch_shape[self._scenes_dim] = B
        return {"z": z.to(self.dtype).reshape(L, *batch_shape, *self.event_shape)}


def symmetric_density(log_joint: Callable[[Tensor], Tensor], proposal: Proposal) -> Callable[[Tensor], Tensor]:
    """log q̄ of a proposal, by which draws may be weighed if the slots of the log joint are exchangeable.

    Args:
        log_joint: log p(x, z); it is checked if it is a `LogJoint`, unless q̄ is q.
        proposal: the distribution q.

    Raises:
        TraceError: for slots that are not exchangeable.
    """
    if isinstance(log_joint, LogJoint) and not isinstance(proposal, ExchangeableProposal):
        log_joint.check_exchangeable()
    return proposal.symmetric_log_prob


@exact_products()
def value_and_gradient(log_density: Callable[[Tensor], Tensor], z: Tensor, chunk_size: int) -> tuple[Tensor, Tensor]:
    """A log-density (L, B) and its gradient at draws z (L, B, K, D), for at most chunk_size draws at a time."""
    values, gradients = [], []
    room = log_density.draws_that_fit(chunk_size) if isinstance(log_density, LogJoint) else chunk_size
    for part in z.split(room):
        with torch.enable_grad(), naming_memory(*part.shape[:2]):
            leaf = part.detach().requires_grad_()
            value = log_density(leaf)
            gradients += torch.autograd.grad(value.sum(), leaf)
        values.append(value.detach())
    return torch.cat(values), torch.cat(gradients)


@contextmanager
def naming_memory(num_draws: int, num_scenes: int) -> Iterator[None]:
    """A context for the evaluation of draws, which says what to do if a GPU has no room for them.

    Raises:
        torch.OutOfMemoryError: with that advice.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition("\n")[0]
        lower = "lower chunk_size (--chunk-size), or " if num_draws > 1 else ""
        raise torch.OutOfMemoryError(
            f"the GPU has no room for {num_draws} draws of {num_scenes} scenes at a time: {lower}give fewer scenes at "
            f"once (--batch-scenes). {reason}"
        ) from error
