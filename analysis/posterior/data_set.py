"""Posterior draws as ArviZ data: named dimensions, every group that ArviZ knows, one file that opens anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import arviz
import numpy as np
import torch
import xarray
from torch import Tensor

from pyro_compvae.analysis.netcdf import write_netcdf
from pyro_compvae.analysis.posterior.draws import Draws, guide_draws
from pyro_compvae.analysis.posterior.predictive_checks import scene_likelihood
from pyro_compvae.analysis.posterior.slot_alignment import ALIGNMENT, align_slots
from pyro_compvae.checks import check_counts
from pyro_compvae.data.records import Scene
from pyro_compvae.errors import ArgumentError, CompvaeError
from pyro_compvae.evidence.annealing.bidirectional import simulate
from pyro_compvae.evidence.density import LogJoint
from pyro_compvae.evidence.pareto import ARVIZ
from pyro_compvae.evidence.proposals.symmetric import normal_proposal
from pyro_compvae.guide import SceneGuide
from pyro_compvae.models import SlotModel

IMAGE = ("channel", "y", "x")

Groups = dict[str, xarray.Dataset]
"""A dataset for every group: "posterior", "sample_stats" and so on."""


Contents = dict[str, tuple[tuple[str, ...], Tensor]]
"""The variables of a group: dimensions and values by name."""


class InferenceDataError(CompvaeError, ValueError):
    """A file of draws is missing, or not what it should be."""


@torch.no_grad()
def to_inference_data(
    model: SlotModel,
    guide: SceneGuide,
    *arguments: Tensor,
    num_draws: int = 500,
    num_chains: int = 4,
    draws: Draws | None = None,
    truth: Scene | None = None,
    num_predictive: int = 10,
    scene_ids: Sequence[int] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> Any:
    """ArviZ data of a batch of scenes: an ``arviz.InferenceData``, or with ArviZ 1.x an ``xarray.DataTree``.

    posterior: z (chain, draw, scene, slot, latent), slots aligned across draws and chains, and saying so.
    sample_stats: lp = log p(x, z), log_prior, log_guide = log q̄(z) of the guide's symmetrised posterior, all in nats;
        relabelled: whether the draw's slots had to be reordered; and what the draws bring: log_weight, khat and ess
        of guide and importance, diverging of NUTS.
    log_likelihood: image (chain, draw, scene[, view]), nats. The Pyro site is "x", which here is a dimension.
    posterior_predictive, prior_predictive: image (chain, draw, scene[, view], channel, y, x), fewer draws.
    prior: z, those behind prior_predictive.
    observed_data: image (scene[, view], channel, y, x), colours in [0, 1].
    constant_data: viewpoint (scene, view, axis); with ``truth``: labels (scene[, view], y, x) and num_objects (scene).

    Args:
        model, guide: in eval mode.
        arguments: of both: images x (B, 3, H, W), or (B, V, 3, H, W) and viewpoints (B, V, 3).
        num_draws, num_chains: of the guide; it is the same as one chain, but lets ArviZ compare.
        draws: from elsewhere, instead of the guide's.
        truth: the scenes that the images are of.
        num_predictive: draws of each chain that images are simulated from.
        scene_ids: the coordinate "scene"; from 0 on by default.
        attributes: added to those of every group.

    Raises:
        ValueError: for counts below one, draws or truth of other scenes, or slots too many for an exact permanent.
        TraceError: (a ValueError) in train mode.
    """
    check_counts(num_predictive=num_predictive)
    log_joint, q = LogJoint(model, *arguments), guide.posterior(*arguments)
    if draws is None:
        draws = guide_draws(log_joint, q, num_draws, num_chains)
    if draws.z.shape[2:] != q.batch_shape:
        raise ArgumentError(
            f"draws: expected those of {tuple(q.batch_shape)} scenes, slots and latents, got {draws.z.shape}"
        )
    images, viewpoints = arguments[0], arguments[1:]
    if truth is not None and truth.image.shape != images.shape:
        raise ArgumentError(f"truth: expected that of images {tuple(images.shape)}, got {tuple(truth.image.shape)}")
    C, N = draws.z.shape[:2]
    z, order = align_slots(draws.z.flatten(0, 1), q)
    statistics, log_likelihood = score(log_joint, z)
    proposal = normal_proposal(q)
    log_guide = [proposal.symmetric_log_prob(part) for part in z.split(CHUNK)]  # of which a permanent keeps a lot
    statistics |= {"log_guide": torch.cat(log_guide)}
    statistics |= {"relabelled": (order != torch.arange(order.shape[-1], device=order.device)).any(-1)}
    statistics = {name: values.unflatten(0, (C, N)) for name, values in statistics.items()} | draws.of_draws
    z = z.unflatten(0, (C, N))

    of_draw = ("chain", "draw")
    seen: tuple[str, ...] = ("scene", "view") if images.dim() == 5 else ("scene",)
    num_predictive = min(num_predictive, N)
    spread = [n * N // num_predictive for n in range(num_predictive)]  # neighbours in a chain are alike
    in_model = z.to(images)
    predicted = [[scene_likelihood(model, in_model[c, n], *viewpoints).sample() for n in spread] for c in range(C)]
    prior = [
        simulate(model, *viewpoints, num_scenes=None if viewpoints else len(images)) for _ in range(num_predictive)
    ]
    constant: Contents = {} if not viewpoints else {"viewpoint": ((*seen, "axis"), viewpoints[0])}
    if truth is not None and truth.labels is not None and truth.num_objects is not None:
        constant |= {"labels": ((*seen, "y", "x"), truth.labels), "num_objects": (("scene",), truth.num_objects)}

    def of_draws(name: str, values: Tensor, *dims: str) -> Contents:
        return {name: ((*of_draw, *dims), values)}

    stats: Contents = {name: ((*of_draw, "scene")[: values.dim()], values) for name, values in statistics.items()}
    per_scene: Contents = {name: (("scene",), values) for name, values in draws.of_scenes.items()}
    prior_images = torch.stack([arguments[0] for _, arguments in prior])[None]
    contents: dict[str, Contents] = {
        "posterior": of_draws("z", z, "scene", "slot", "latent"),
        "sample_stats": stats | per_scene,
        "log_likelihood": of_draws("image", log_likelihood.unflatten(0, (C, N)), *seen),
        "posterior_predictive": of_draws(
            "image", torch.stack([torch.stack(chain) for chain in predicted]), *seen, *IMAGE
        ),
        "prior": of_draws("z", torch.stack([z for z, _ in prior])[None], "scene", "slot", "latent"),
        "prior_predictive": of_draws("image", prior_images, *seen, *IMAGE),
        "observed_data": {"image": ((*seen, *IMAGE), images)},
        "constant_data": constant,
    }
    common: dict[str, Any] = {
        "source": draws.source,
        "inference_library": "pyro",
        "slot_alignment": ALIGNMENT,
        **(attributes or {}),
    }
    if draws.num_weights:
        common["num_weights"] = draws.num_weights
    groups = {name: _dataset(content).assign_attrs(common) for name, content in contents.items() if content}
    groups["posterior_predictive"] = groups["posterior_predictive"].assign_coords(draw=spread)
    if scene_ids is not None:
        groups = {name: data.assign_coords(scene=list(scene_ids)) for name, data in groups.items()}
    return bundle(groups)


def bundle(groups: Groups) -> Any:
    """Groups as the ArviZ that is installed wants them: InferenceData of 0.2x, or the DataTree of 1.x."""
    if ARVIZ < 1:
        return arviz.InferenceData(**groups)  # type: ignore[arg-type]
    return xarray.DataTree.from_dict(groups)


def groups_of(data: Any) -> Groups:
    """The groups that `bundle` has put together, or ArviZ has read from a file."""
    if ARVIZ < 1:
        return {name: data[name] for name in data.groups()}
    return {name: child.to_dataset() for name, child in data.children.items()}


def save_inference_data(path: Path, data: Any) -> None:
    """Write ArviZ data into a NetCDF file, atomically, which ArviZ 0.2x and 1.x and plain xarray open."""
    write_netcdf(path, groups_of(data), compressed=True)


def load_groups(path: Path, *names: str) -> Groups:
    """Some groups of a file of draws.

    Raises:
        InferenceDataError: if the file or a group is missing.
    """
    if not path.is_file():
        raise InferenceDataError(f"{path}: expected draws, found no such file; python experiments/diagnose.py makes it")
    groups = {}
    for name in names:
        try:
            groups[name] = xarray.load_dataset(path, group=name, engine="h5netcdf")
        except OSError as error:
            raise InferenceDataError(
                f"{path}: expected the group {name!r}, found none ({error}); was it written by diagnose.py?"
            ) from error
    return groups


@torch.no_grad()
def score(log_joint: LogJoint, z: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """lp and log_prior (L, B), and the log-likelihood (L, B[, V]), nats."""
    chunks = [log_joint.terms(part) for part in z.split(CHUNK)]
    log_prior, log_likelihood = (torch.cat([chunk[site] for chunk in chunks]) for site in ("z", "x"))
    log_prior = log_prior.reshape(z.shape[:2])
    if log_likelihood.dim() == 3:
        log_likelihood = log_likelihood.transpose(1, 2)
    total = log_likelihood.sum(-1) if log_likelihood.dim() == 3 else log_likelihood
    return {"lp": log_prior + total, "log_prior": log_prior}, log_likelihood


CHUNK = 16
"""Draws of all scenes held at a time."""

COORDINATES = {"channel": ["red", "green", "blue"], "axis": ["x", "y", "z"]}
"""Coordinates of dimensions whose places have names; the others count from 0."""


def _dataset(content: Contents) -> xarray.Dataset:
    arrays = {name: (dims, _array(values)) for name, (dims, values) in content.items()}
    data = xarray.Dataset(arrays)
    return data.assign_coords({str(dim): COORDINATES.get(str(dim), range(size)) for dim, size in data.sizes.items()})


def _array(values: Tensor) -> np.ndarray:
    """Latents and images in single precision, as the model computes them; nats of large sums in double."""
    array = values.cpu().numpy()
    return array.astype(np.float32) if array.ndim > 4 else array
