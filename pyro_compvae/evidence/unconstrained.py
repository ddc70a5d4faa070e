"""Models with any continuous latent sites, treated as one slot of unconstrained numbers, for Gaussian fits and HMC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.evidence.density import LogJoint, naming_memory
from pyro_compvae.evidence.importance import chunk_sizes
from pyro_compvae.evidence.pair import inspect_pair
from pyro_compvae.evidence.site import Site
from pyro_compvae.evidence.trace import TraceError, particles_trace, sample_sites
from pyro_compvae.precision import exact_products

MOMENT_DRAWS = 1000
"""Draws of a guide that give the mean and standard deviation at which a fit starts, both within 3 % of the latter."""

LEAST_SCALE = 1e-3
"""Least standard deviation of a start. A guide that is certain of a value (a Delta) has 0, and a Gaussian needs
more."""


class UnconstrainedLogJoint(LogJoint):
    r"""log p(x, z(u)) + log |dz/du| of every scene, for a Pyro model with any continuous latent sites.

    u ∈ R^N holds the latent sites of a scene, one after another, each on a scale without bounds (that of
    `torch.distributions.biject_to` for its support, as in Pyro's autoguides). The integral over u is p(x). For the
    estimators u is a single slot of N dimensions, event shape (1, N), so there is nothing to exchange.

    Args:
        model: the model in eval mode; its sites lie in the plate "scenes". No support may depend on another site's
            value.
        arguments: the model's arguments.

    Raises:
        TraceError: if the model is not of that kind.
    """

    def _lay_out(self, latent: dict[str, Any]) -> Tensor:
        if not latent:
            raise TraceError("model: expected latent sites, found none")
        self._sites = {name: Site.of(name, site, self._nesting) for name, site in latent.items()}
        first = next(iter(self._sites.values()))
        self.num_scenes, self.dtype = first.batch_shape[first.scenes_dim], first.dtype
        u = self.unconstrained({name: site["value"].detach()[None] for name, site in latent.items()})
        self.event_shape = tuple(u.shape[2:])
        return u

    def unconstrained(self, values: dict[str, Tensor]) -> Tensor:
        """u (L, B, 1, N) for these values of the latent sites, (L, plates..., event)."""
        parts = [site.unconstrained(values[name]) for name, site in self._sites.items()]
        return torch.cat(parts, dim=-1).unsqueeze(-2)

    def _evaluate(self, z: Tensor) -> Tensor:
        return super()._evaluate(z) + sum(log_det for _, log_det in self._constrained(z).values())

    def _values(self, z: Tensor) -> dict[str, Tensor]:
        return {name: value for name, (value, _) in self._constrained(z).items()}

    def _constrained(self, u: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """The value of every site, and its log |dz/du| (L, B)."""
        sizes = [site.size for site in self._sites.values()]
        parts = u.squeeze(-2).split(sizes, dim=-1)
        return {name: site.constrained(part) for (name, site), part in zip(self._sites.items(), parts, strict=True)}


@exact_products()
def moments_of_draws(log_joint: UnconstrainedLogJoint, guide: Callable[..., Any], chunk_size: int) -> Normal:
    """A Gaussian with the mean and the standard deviation of a guide's draws, batch shape (B, 1, N).

    Args:
        log_joint: the log joint of the guide's model.
        guide: the guide in eval mode, which samples the model's latent sites.
        chunk_size: draws per scene held at a time.

    Raises:
        TraceError: (a ValueError) for a guide of another model, or a guide with factors.
    """
    nesting = inspect_pair(log_joint.model, guide, log_joint.arguments).nesting
    parts = []
    with torch.no_grad():
        for size in chunk_sizes(MOMENT_DRAWS, chunk_size):
            with naming_memory(size, log_joint.num_scenes):
                trace = particles_trace(guide, log_joint.arguments, size, nesting)
            parts.append(log_joint.unconstrained({name: site["value"] for name, site in sample_sites(trace)}))
    u = torch.cat(parts)
    return Normal(u.mean(0), u.std(0).clamp(min=LEAST_SCALE))
