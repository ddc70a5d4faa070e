"""Whether a guide's log-probability is the density of the model's latent sites, so that weights mean something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions import Delta, TransformedDistribution, constraints
from torch import Tensor

from pyro_compvae.evidence.independence import agree, random_state_kept
from pyro_compvae.evidence.site import Site
from pyro_compvae.evidence.trace import (
    TraceError,
    check_eval,
    particles_trace,
    prototype,
    sample_sites,
    scenes_frame,
)

CHANGE_OF_VARIABLES = 1e-3
"""How far a log determinant may be off, as a share of it; guides compute it in single precision."""


class Pair(NamedTuple):
    """A model and a guide that have the same latent sites in the same plates.

    nesting: the depth of their plates.
    model, guide: a trace of the guide, and one of the model at the guide's draw, without log-probabilities.
    """

    nesting: int
    model: poutine.Trace
    guide: poutine.Trace

    @property
    def latent(self) -> list[str]:
        """The names of the model's latent sites."""
        return [name for name, site in sample_sites(self.model) if not site["is_observed"]]


def inspect_pair(model: Callable[..., Any], guide: Callable[..., Any], arguments: tuple[Any, ...]) -> Pair:
    """Run both programs once.

    Raises:
        TraceError: if the latent sites differ in their names, plates or event shapes.
    """
    check_eval(model, "model")
    guide_nesting, guide_trace = prototype(guide, arguments, "guide")
    try:
        model_nesting, model_trace = prototype(poutine.replay(model, guide_trace), arguments, "model")
    except (RuntimeError, ValueError, IndexError):
        with random_state_kept(arguments):
            _check_layout(prototype(model, arguments, "model")[1], guide_trace)
        raise
    _check_layout(model_trace, guide_trace)
    return Pair(max(guide_nesting, model_nesting), model_trace, guide_trace)


def _check_layout(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> None:
    latent = {name: site for name, site in sample_sites(model_trace) if not site["is_observed"]}
    # Pyro's autoguides sample auxiliary sites; the sites named as in the model are deterministic functions of these.
    sampled = {name: site for name, site in sample_sites(guide_trace) if not _is_auxiliary(site)}
    if set(latent) != set(sampled):
        raise TraceError(f"guide: expected to sample the model's latent sites {sorted(latent)}, got {sorted(sampled)}")
    for name, site in latent.items():
        for what, layout in (("plates", _plates), ("event shape", _event_shape)):
            if layout(site) != layout(sampled[name]):
                raise TraceError(
                    f"guide: expected {name!r} with the model's {what} {layout(site)}, got {layout(sampled[name])}"
                )


def check_density(pair: Pair, guide: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Refuse a guide whose log-probability is not the log-density of the latent sites.

    A Delta has no density, unless its value is a function of auxiliary sites and it holds the log determinant of that
    function, as in Pyro's autoguides. Any other auxiliary site would be in the guide's log-probability and not in the
    model's.

    Raises:
        TraceError: for such a guide.
    """
    sites = dict(sample_sites(pair.guide))
    auxiliary = [name for name, site in sites.items() if _is_auxiliary(site)]
    deltas = [name for name, site in sites.items() if isinstance(base_distribution(site["fn"]), Delta)]
    for name in sites.keys() - {*auxiliary, *deltas}:
        expected, found = (_kind(trace.nodes[name]["fn"]) for trace in (pair.model, pair.guide))
        if expected != found:
            raise TraceError(f"guide: expected {name!r} to be {expected}, as in the model, got {found}")
    if deltas and not auxiliary:
        raise TraceError(
            f"guide: expected distributions with a density, got a Delta at {deltas}, which has none; a point estimate "
            "such as AutoDelta gives no weights, so take a guide that draws, such as AutoNormal"
        )
    if auxiliary:
        with random_state_kept(arguments):
            _check_change_of_variables(pair, guide, arguments, auxiliary, deltas)


@torch.enable_grad()
def _check_change_of_variables(
    pair: Pair, guide: Callable[..., Any], arguments: tuple[Any, ...], auxiliary: list[str], deltas: list[str]
) -> None:
    """Refuse Deltas that do not hold the log determinant of how they depend on the auxiliary sites.

    It is computed by automatic differentiation for the first scene, in coordinates u and w without bounds.
    """
    nesting, guide_sites, model_sites = pair.nesting, dict(sample_sites(pair.guide)), dict(sample_sites(pair.model))
    free = {name: Site.of(name, guide_sites[name], nesting, "guide") for name in auxiliary}
    fixed = {name: Site.of(name, model_sites[name], nesting) for name in deltas}
    u = [site.unconstrained(guide_sites[name]["value"].detach()[None]) for name, site in free.items()]
    u = [part.requires_grad_() for part in u]
    drawn = [site.constrained(part) for site, part in zip(free.values(), u, strict=True)]
    values = {name: value[0] for name, (value, _) in zip(free, drawn, strict=True)}
    sites = dict(sample_sites(particles_trace(poutine.condition(guide, values), arguments, None, nesting)))
    w = torch.cat(
        [site.unconstrained(sites[name]["value"][None]) for name, site in fixed.items()] or [u[0][..., :0]], -1
    )
    if w.shape[-1] != sum(part.shape[-1] for part in u) or not w.requires_grad:
        raise TraceError(
            f"guide: expected auxiliary sites of as many dimensions as the Deltas {deltas} that are functions of them, "
            f"got {sum(part.shape[-1] for part in u)} at {auxiliary} and {w.shape[-1]}; the log-probability of others "
            "does not belong in the weights, so give the model these sites, or sum them out"
        )
    rows = [
        torch.autograd.grad(one, u, retain_graph=True, allow_unused=True, materialize_grads=True) for one in w[0, 0]
    ]
    jacobian = torch.stack([torch.cat([part[0, 0] for part in row]) for row in rows])
    expected = torch.stack([log_det[0, 0] for _, log_det in drawn]).sum() - jacobian.slogdet().logabsdet
    values = {name: sites[name]["value"][None] for name in deltas}
    logs = [site.constrained(site.unconstrained(values[name]))[1][0, 0] for name, site in fixed.items()]
    found = torch.stack(logs + [_of_first_scene(sites[name], nesting) for name in deltas]).sum()
    if not agree(found, expected, CHANGE_OF_VARIABLES):
        raise TraceError(
            f"guide: expected the Deltas {deltas} to hold the log determinant of the function that makes them of "
            f"{auxiliary}, got a log-density that is {float(found - expected):.4g} nats off; sample from a "
            "TransformedDistribution instead"
        )


def check_support(model: poutine.Trace, guide: poutine.Trace) -> None:
    """Refuse draws outside the support of the model's latent sites that the model gives a probability nevertheless.

    Supports of the same kind are not compared, since draws may leave them by rounding.

    Raises:
        TraceError: for such draws.
    """
    for name, site in sample_sites(model):
        if site["is_observed"] or type(_bounds(site)) is type(_bounds(guide.nodes[name])):
            continue
        outside = ~site["fn"].support.check(site["value"])
        if bool((outside & ~site["log_prob"].isneginf()).any()):
            raise TraceError(
                f"guide: expected draws of {name!r} in the model's support {site['fn'].support}, got others; take a "
                "distribution with that support"
            )


def _bounds(site: Any) -> Any:
    """The support of a site's numbers."""
    support = site["fn"].support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def base_distribution(fn: Any) -> Any:
    """The distribution in a site's wrappers, such as .to_event and .mask."""
    while hasattr(fn, "base_dist") and not isinstance(fn, TransformedDistribution):
        fn = fn.base_dist
    return fn


def _of_first_scene(site: Any, nesting: int) -> Tensor:
    """The log-probability of a site for the first scene, summed over all other plates."""
    log_prob = site["log_prob"]
    log_prob = log_prob.reshape((1,) * (nesting - log_prob.dim()) + log_prob.shape)
    return log_prob.select(scenes_frame(site["name"], site, "guide").dim, 0).sum()


def _is_auxiliary(site: Any) -> bool:
    return bool(site["infer"].get("is_auxiliary"))


def _kind(fn: Any) -> str:
    return "discrete" if fn.support.is_discrete else "continuous"


def _plates(site: Any) -> list[tuple[str, int, int]]:
    """Name, dimension and size of the plates of a site, the innermost first."""
    frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
    return sorted(((frame.name, frame.dim, frame.size) for frame in frames), key=lambda frame: -frame[1])


def _event_shape(site: Any) -> tuple[int, ...]:
    return tuple(site["fn"].event_shape)
