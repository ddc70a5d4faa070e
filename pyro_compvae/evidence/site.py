"""Latent sites in coordinates without bounds, scene by scene."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Transform, biject_to

from pyro_compvae.evidence.trace import TraceError, scenes_frame


class Site(NamedTuple):
    """A latent site of B scenes.

    transform: the map from numbers without bounds to its support.
    batch_shape: the shape of all plates, with one dimension per level of nesting; that of the scenes is at scenes_dim.
    event_shape, free_shape: the shapes of its values, and of the numbers without bounds.
    """

    transform: Transform
    batch_shape: tuple[int, ...]
    scenes_dim: int
    event_shape: tuple[int, ...]
    free_shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, name: str, site: dict[str, Any], nesting: int, what: str = "model") -> Site:
        """Describe a site of a trace.

        Raises:
            TraceError: if the site is discrete, or if its support has no bijection.
        """
        fn, value = site["fn"], site["value"]
        if fn.support.is_discrete:
            raise TraceError(f"{what}: expected continuous latent sites, got the discrete {name!r}; sum it out")
        try:
            transform = biject_to(fn.support)
        except NotImplementedError as error:
            raise TraceError(f"{what}: expected supports with a bijection, got {fn.support} at {name!r}") from error
        batch_shape = (1,) * (nesting - len(fn.batch_shape)) + tuple(fn.batch_shape)
        event_shape = tuple(fn.event_shape)
        free_shape = tuple(transform.inverse_shape(torch.Size(batch_shape + event_shape)))[nesting:]
        scenes_dim = nesting + scenes_frame(name, site, what).dim
        return cls(transform, batch_shape, scenes_dim, event_shape, free_shape, value.dtype)

    @property
    def size(self) -> int:
        """How many numbers without bounds the site has per scene."""
        return (torch.Size(self.batch_shape + self.free_shape)).numel() // self.batch_shape[self.scenes_dim]

    def constrained(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Map u (L, B, size) to the value (L, batch, event) and log |dz/du| (L, B)."""
        others = self.batch_shape[: self.scenes_dim] + self.batch_shape[self.scenes_dim + 1 :]
        free = u.reshape(*u.shape[:2], *others, *self.free_shape).movedim(1, 1 + self.scenes_dim)
        value = self.transform(free)
        log_det = self.transform.log_abs_det_jacobian(free, value).movedim(1 + self.scenes_dim, 1)
        return value.to(self.dtype), log_det.reshape(*u.shape[:2], -1).sum(-1)

    def unconstrained(self, value: Tensor) -> Tensor:
        """Map the value (L, batch, event) to u (L, B, size), in float64."""
        free = self.transform.inv(value.double().reshape(len(value), *self.batch_shape, *self.event_shape))
        return free.movedim(1 + self.scenes_dim, 1).reshape(len(value), self.batch_shape[self.scenes_dim], -1)
