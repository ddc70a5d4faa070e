"""The groups of ArviZ data, computed from posterior draws of a batch of scenes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import xarray
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.analysis.posterior.draws import Draws
from pyro_compvae.analysis.posterior.predictive_checks import scene_likelihood
from pyro_compvae.analysis.posterior.slot_alignment import ALIGNMENT, align_slots
from pyro_compvae.data.records import Scene
from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence.annealing.bidirectional import simulate
from pyro_compvae.evidence.density import LogJoint
from pyro_compvae.evidence.proposals.symmetric import normal_proposal
from pyro_compvae.models import SlotModel

CHUNK = 16
"""How many draws of all scenes are held at a time, to bound the memory."""

IMAGE = ("channel", "y", "x")
"""The dimensions of an image."""

DRAW = ("chain", "draw")
"""The dimensions of draws."""

COORDINATES = {"channel": ["red", "green", "blue"], "axis": ["x", "y", "z"]}
"""The coordinates of dimensions whose entries have names; the others count from 0."""

Groups = dict[str, xarray.Dataset]
"""A data set for every group, such as "posterior" and "sample_stats"."""

Contents = dict[str, tuple[tuple[str, ...], Tensor]]
"""The dimensions and values of a group's variables, by name."""


@dataclass(frozen=True)
class Observed:
    """A batch of scenes, with the densities that a model and a guide give them."""

    log_joint: LogJoint
    """log p(x, z) by the model for images x (B, 3, H, W), or (B, V, 3, H, W) and viewpoints (B, V, 3)."""
    q: Normal
    """The guide's posterior, of batch shape (B, K, D)."""
    truth: Scene | None = None
    """The scenes with their true masks, if they are known."""

    def __post_init__(self) -> None:
        if self.truth is not None and self.truth.image.shape != self.images.shape:
            raise ArgumentError(
                f"truth: expected that of images {tuple(self.images.shape)}, got {tuple(self.truth.image.shape)}"
            )

    @property
    def model(self) -> SlotModel:
        """The model, in eval mode."""
        return cast(SlotModel, self.log_joint.model)

    @property
    def images(self) -> Tensor:
        """The images x."""
        return self.log_joint.arguments[0]

    @property
    def viewpoints(self) -> tuple[Tensor, ...]:
        """The viewpoints, if the model has any."""
        return self.log_joint.arguments[1:]

    @property
    def dims(self) -> tuple[str, ...]:
        """The dimensions of the images' batch: scenes, and views if there are several."""
        return ("scene", "view") if self.images.dim() == 5 else ("scene",)


@torch.no_grad()
def posterior_groups(seen: Observed, draws: Draws, num_predictive: int) -> Groups:
    """Compute every group that `to_inference_data` describes, with slots aligned across draws and chains.

    Args:
        seen: the scenes and their densities.
        draws: draws from their posterior.
        num_predictive: how many draws of each chain images are simulated from.

    Raises:
        ArgumentError: for draws for other scenes.
        ValueError: for more slots than an exact permanent allows.
    """
    if draws.z.shape[2:] != seen.q.batch_shape:
        raise ArgumentError(
            f"draws: expected those of {tuple(seen.q.batch_shape)} scenes, slots and latents, got {draws.z.shape}"
        )
    C, N = draws.z.shape[:2]
    z, order = align_slots(draws.z.flatten(0, 1), seen.q)
    statistics, log_likelihood = score(seen.log_joint, z)
    proposal = normal_proposal(seen.q)
    log_guide = [proposal.symmetric_log_prob(part) for part in z.split(CHUNK)]  # the permanent takes much memory
    statistics |= {"log_guide": torch.cat(log_guide)}
    statistics |= {"relabelled": (order != torch.arange(order.shape[-1], device=order.device)).any(-1)}
    statistics = {name: values.unflatten(0, (C, N)) for name, values in statistics.items()} | draws.of_draws
    z = z.unflatten(0, (C, N))
    num_predictive = min(num_predictive, N)
    spread = [n * N // num_predictive for n in range(num_predictive)]  # neighbours in a chain are alike
    contents: dict[str, Contents] = {
        "posterior": {"z": ((*DRAW, "scene", "slot", "latent"), z)},
        "sample_stats": {name: ((*DRAW, "scene")[: values.dim()], values) for name, values in statistics.items()}
        | {name: ((*DRAW, "scene"), values.expand(C, N, -1)) for name, values in draws.of_scenes.items()},
        "log_likelihood": {"image": ((*DRAW, *seen.dims), log_likelihood.unflatten(0, (C, N)))},
        "posterior_predictive": {"image": ((*DRAW, *seen.dims, *IMAGE), _predicted(seen, z[:, spread]))},
        **_prior_groups(seen, num_predictive),
        "observed_data": {"image": ((*seen.dims, *IMAGE), seen.images)},
        "constant_data": _constants(seen),
    }
    common = {"source": draws.source, "inference_library": "pyro", "slot_alignment": ALIGNMENT}
    weights = {"num_weights": draws.num_weights} if draws.num_weights else {}
    groups = {name: _dataset(content).assign_attrs(common | weights) for name, content in contents.items() if content}
    groups["posterior_predictive"] = groups["posterior_predictive"].assign_coords(draw=spread)
    return groups


def of_scenes(values: xarray.DataArray) -> xarray.DataArray:
    """Numbers of scenes, such as k̂, that "sample_stats" repeats for every draw, as ArviZ expects of that group.

    Files that were written before they were repeated are read too.
    """
    return values.isel({dim: 0 for dim in DRAW if dim in values.dims}, drop=True)


def _predicted(seen: Observed, z: Tensor) -> Tensor:
    """Simulate an image for each of some draws z (C, N, B, K, D)."""
    z = z.to(seen.images)
    images = [[scene_likelihood(seen.model, draw, *seen.viewpoints).sample() for draw in chain] for chain in z]
    return torch.stack([torch.stack(chain) for chain in images])


def _prior_groups(seen: Observed, num_draws: int) -> dict[str, Contents]:
    """Draw slots and images from the model."""
    count = None if seen.viewpoints else len(seen.images)
    drawn = [simulate(seen.model, *seen.viewpoints, num_scenes=count) for _ in range(num_draws)]
    z = torch.stack([z for z, _ in drawn])[None]
    images = torch.stack([arguments[0] for _, arguments in drawn])[None]
    return {
        "prior": {"z": ((*DRAW, "scene", "slot", "latent"), z)},
        "prior_predictive": {"image": ((*DRAW, *seen.dims, *IMAGE), images)},
    }


def _constants(seen: Observed) -> Contents:
    """The viewpoints, and the true masks and counts if they are known."""
    constants: Contents = {"viewpoint": ((*seen.dims, "axis"), seen.viewpoints[0])} if seen.viewpoints else {}
    truth = seen.truth
    if truth is not None and truth.labels is not None and truth.num_objects is not None:
        constants |= {"labels": ((*seen.dims, "y", "x"), truth.labels), "num_objects": (("scene",), truth.num_objects)}
    return constants


@torch.no_grad()
def score(log_joint: LogJoint, z: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """lp and log_prior (L, B), and the log-likelihood (L, B[, V]), all in nats."""
    chunks = [log_joint.terms(part) for part in z.split(CHUNK)]
    log_prior, log_likelihood = (torch.cat([chunk[site] for chunk in chunks]) for site in ("z", "x"))
    log_prior = log_prior.reshape(z.shape[:2])
    if log_likelihood.dim() == 3:
        log_likelihood = log_likelihood.transpose(1, 2)
    total = log_likelihood.sum(-1) if log_likelihood.dim() == 3 else log_likelihood
    return {"lp": log_prior + total, "log_prior": log_prior}, log_likelihood


def _dataset(content: Contents) -> xarray.Dataset:
    arrays = {name: (dims, _array(values)) for name, (dims, values) in content.items()}
    data = xarray.Dataset(arrays)
    return data.assign_coords({str(dim): COORDINATES.get(str(dim), range(size)) for dim, size in data.sizes.items()})


def _array(values: Tensor) -> np.ndarray:
    """The values as an array: latents and images in single precision, like the model's, and nats in double."""
    array = values.cpu().numpy()
    return array.astype(np.float32) if array.ndim > 4 else array
