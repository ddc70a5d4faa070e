"""Pyro programs as densities, with one number per scene instead of one per batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Unit
from torch import Tensor, nn

from pyro_compvae.device import memory_of
from pyro_compvae.errors import CompvaeError, NotFiniteError
from pyro_compvae.precision import exact_products
from pyro_compvae.programs import leaving_no_parameters

SCENES = "scenes"
"""The name of the plate of scenes."""


class TraceError(CompvaeError, ValueError):
    """A model or a guide has no log-density for each scene."""


class LogJoint:
    """log p(x, z) of every scene as a function of z, for a Pyro model whose only latent site is "z".

    Args:
        model: the model in eval mode; its sites lie in the plate "scenes", and all but "z" are observed.
        arguments: the model's arguments: the images, and the viewpoints if it has several views.

    Attributes:
        num_scenes, event_shape, dtype: those of "z": B, (K, D) for the models of this package, and its type.

    Raises:
        TraceError: if the model is not of that kind.
    """

    def __init__(self, model: Callable[..., Any], *arguments: Tensor) -> None:
        check_eval(model, "model")
        self.model = model
        self.arguments = arguments
        self._nesting, trace = prototype(model, arguments, "model")
        self._typical = self._lay_out({name: site for name, site in sample_sites(trace) if not site["is_observed"]})
        self._room: int | None = None

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
            return self._evaluate(z)
        parts = z.split(self.draws_that_fit(len(z)))
        with naming_memory(*parts[0].shape[:2]):
            return torch.cat([self._evaluate(part) for part in parts])

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


@exact_products()
def prototype(program: Callable[..., Any], arguments: tuple[Any, ...], what: str) -> tuple[int, poutine.Trace]:
    """Run a program once; returns the depth of its plates, and a trace whose sites have been checked.

    Raises:
        TraceError: for sites outside the plate "scenes", factors in a guide, and scaled or subsampled sites.
    """
    with torch.no_grad(), pyro.validation_enabled(False), leaving_no_parameters():  # as in `particles_trace`
        trace = poutine.trace(program).get_trace(*arguments)
    sites = sample_sites(trace)
    if not sites:
        raise TraceError(f"{what}: expected sample sites, found none")
    for name, site in sites:
        scenes_frame(name, site, what)
        if what == "guide" and site["is_observed"]:
            kind = "factor" if isinstance(site["fn"], Unit) else "observed site"
            raise TraceError(
                f"guide: expected nothing but samples, found the {kind} {name!r}, which would spoil the weights; "
                "call guide.eval() first"
            )
        if not (isinstance(site["scale"], (int, float)) and site["scale"] == 1):
            raise TraceError(f"{what}: expected sites of scale 1, got {site['scale']} at {name!r}; drop subsampling")
    frames = [frame for _, site in sites for frame in site["cond_indep_stack"] if frame.vectorized]
    return max(-frame.dim for frame in frames), trace


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


@exact_products()
def particles_trace(
    program: Callable[..., Any], arguments: tuple[Any, ...], num_particles: int, nesting: int
) -> poutine.Trace:
    """A trace, with log-probabilities, of vectorised runs of a program in a plate to the left of all others."""
    # Pyro's validation is off: it would stop at NaN without the scene, which `per_scene_log_prob` names.
    with pyro.validation_enabled(False), leaving_no_parameters():
        with pyro.plate("_particles", num_particles, dim=-1 - nesting):
            trace = poutine.trace(program).get_trace(*arguments)
        trace.compute_log_prob()
    return trace


def per_scene_log_prob(trace: poutine.Trace, num_particles: int, nesting: int, what: str) -> Tensor:
    """The sum of log-probabilities over all sites of a trace of `particles_trace`, for every particle and scene, (L,
    B).

    Raises:
        FloatingPointError: if a site is NaN or +inf, with the scene and the site.
    """
    sites = []
    for name, site in sample_sites(trace):
        log_prob = site["log_prob"]
        log_prob = log_prob.reshape((1,) * (nesting + 1 - log_prob.dim()) + log_prob.shape)
        scenes_dim = scenes_frame(name, site, what).dim
        other_plates = [dim for dim in range(-nesting, 0) if dim != scenes_dim]
        log_prob = (log_prob.sum(other_plates) if other_plates else log_prob).expand(num_particles, -1)
        sites.append((name, log_prob))
    total = torch.stack([log_prob for _, log_prob in sites]).sum(0)
    if _is_bad(total).any():  # read only once, because it waits for the GPU
        for name, log_prob in sites:
            for particle, scene in _is_bad(log_prob).nonzero().tolist():
                raise NotFiniteError(
                    f"{what}: expected finite log-probabilities, got {float(log_prob[particle, scene])} at site "
                    f"{name!r} for scene {scene}"
                )
    return total


def _is_bad(log_prob: Tensor) -> Tensor:
    return log_prob.isnan() | log_prob.isposinf()


def sample_sites(trace: poutine.Trace) -> list[tuple[str, Any]]:
    """The sites of a trace that are random or observed, except those of subsampled plates."""
    return [
        (name, site)
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not poutine.util.site_is_subsample(site)
    ]


def check_eval(program: Callable[..., Any], what: str) -> None:
    """Refuse a module in train mode, whose extra terms belong to training.

    Raises:
        TraceError: if the module is in train mode.
    """
    if isinstance(program, nn.Module) and program.training:
        raise TraceError(f"{what}: expected eval mode, got train mode; call {what}.eval() first")


def scenes_frame(name: str, site: dict[str, Any], what: str) -> Any:
    """The plate of scenes that contains a site.

    Raises:
        TraceError: if the site is outside of it.
    """
    for frame in site["cond_indep_stack"]:
        if frame.name == SCENES and frame.vectorized:
            return frame
    raise TraceError(f'{what}: expected all sites in pyro.plate("{SCENES}"), got {name!r} outside of it')
