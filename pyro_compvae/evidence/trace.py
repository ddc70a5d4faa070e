"""Traces of Pyro programs whose sites have one log-density for every scene."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Unit
from torch import Tensor, nn

from pyro_compvae.errors import CompvaeError, NotFiniteError
from pyro_compvae.precision import exact_products
from pyro_compvae.programs import leaving_no_parameters

SCENES = "scenes"
"""The name of the plate of scenes."""


class TraceError(CompvaeError, ValueError):
    """A model or a guide has no log-density for each scene."""


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
        _check_plates(name, site, what)
        if what == "guide" and site["is_observed"]:
            kind = "factor" if isinstance(site["fn"], Unit) else "observed site"
            raise TraceError(
                f"guide: expected nothing but samples, found the {kind} {name!r}, which would spoil the weights; "
                "call guide.eval() first"
            )
        if (what == "guide" or not site["is_observed"]) and _is_masked(site):
            raise TraceError(
                f"{what}: expected the whole log-probability of {name!r}, got a mask; without it, weights are wrong"
            )
        if not (isinstance(site["scale"], (int, float)) and site["scale"] == 1):
            raise TraceError(f"{what}: expected sites of scale 1, got {site['scale']} at {name!r}; drop subsampling")
    frames = [frame for _, site in sites for frame in site["cond_indep_stack"] if frame.vectorized]
    return max(-frame.dim for frame in frames), trace


def _is_masked(site: dict[str, Any]) -> bool:
    """Whether a mask, by poutine.mask or of the distribution, leaves log-probabilities out."""
    masks, fn = [site["mask"]], site["fn"]
    while hasattr(fn, "base_dist"):
        masks.append(getattr(fn, "_mask", None))
        fn = fn.base_dist
    return any(mask is not None and not bool(torch.as_tensor(mask).all()) for mask in masks)


def _check_plates(name: str, site: dict[str, Any], what: str) -> None:
    """Refuse a site whose batch shape has dimensions that no plate declares, which would not belong to a scene.

    Raises:
        TraceError: for such a site.
    """
    sizes = {frame.dim: frame.size for frame in site["cond_indep_stack"] if frame.vectorized}
    shape = tuple(site["fn"].batch_shape)
    if any(size not in (1, sizes.get(index - len(shape), 1)) for index, size in enumerate(shape)):
        plates = tuple(sizes.get(dim, 1) for dim in range(min(sizes), 0))
        raise TraceError(
            f"{what}: expected the batch shape {plates} of its plates at {name!r}, got {shape}; declare the dimensions "
            "of an event by .to_event"
        )


@exact_products()
def particles_trace(
    program: Callable[..., Any], arguments: tuple[Any, ...], num_particles: int | None, nesting: int
) -> poutine.Trace:
    """A trace, with log-probabilities, of vectorised runs of a program in a plate to the left of all others.

    With None, the program runs once, without that plate.
    """
    # Pyro's validation is off: it would stop at NaN without the scene, which `per_scene_log_prob` names.
    with pyro.validation_enabled(False), leaving_no_parameters():
        particles = (
            nullcontext() if num_particles is None else pyro.plate("_particles", num_particles, dim=-1 - nesting)
        )
        with particles:
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
    """The sites of a trace that are random or observed, without those of subsampled plates and `pyro.deterministic`."""
    return [
        (name, site)
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and not poutine.util.site_is_subsample(site)
        and not (site["infer"] or {}).get("_deterministic")
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
