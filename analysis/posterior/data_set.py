"""Posterior draws as ArviZ data, with named dimensions and all of ArviZ's groups, in one file that opens anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import arviz
import torch
import xarray
from torch import Tensor

from pyro_compvae.analysis.netcdf import read_netcdf, write_netcdf
from pyro_compvae.analysis.posterior.draws import Draws, guide_draws
from pyro_compvae.analysis.posterior.groups import Groups, Observed, posterior_groups
from pyro_compvae.checks import check_counts
from pyro_compvae.data.records import DataError, Scene
from pyro_compvae.errors import CompvaeError
from pyro_compvae.evidence.density import LogJoint
from pyro_compvae.evidence.pareto import ARVIZ
from pyro_compvae.guide import SceneGuide
from pyro_compvae.models import SlotModel


class InferenceDataError(CompvaeError, ValueError):
    """A file of draws is missing, or has the wrong content."""


@torch.no_grad()
def to_inference_data(
    model: SlotModel,
    guide: SceneGuide,
    *arguments: Tensor,
    num_draws: int = 500,
    num_chains: int = 4,
    truth: Scene | None = None,
    num_predictive: int = 10,
) -> Any:
    """Make ArviZ data of a batch of scenes: an ``arviz.InferenceData``, or with ArviZ 1.x an ``xarray.DataTree``.

    posterior: z (chain, draw, scene, slot, latent), with slots aligned across draws and chains, which a note says.
    sample_stats: lp = log p(x, z), log_prior, log_guide = log q̄(z) of the guide's symmetrised posterior, all in nats;
        relabelled, whether the draw's slots had to be reordered; and further numbers of the draws: log_weight, khat and
        ess of guide and importance, diverging and step_size of NUTS. Those of scenes (khat, ess) and of all scenes
        (step_size) are repeated for every draw, so that ``arviz.concat`` and ``arviz.summary`` take the group.
    log_likelihood: image (chain, draw, scene[, view]), nats. The Pyro site is "x", which here is a dimension.
    posterior_predictive, prior_predictive: image (chain, draw, scene[, view], channel, y, x), with fewer draws.
    prior: z, the slots behind prior_predictive.
    observed_data: image (scene[, view], channel, y, x), colours in [0, 1].
    constant_data: viewpoint (scene, view, axis); with ``truth``: labels (scene[, view], y, x) and num_objects (scene).

    Args:
        model, guide: the model and the guide, in eval mode.
        arguments: the arguments of both: images x (B, 3, H, W), or (B, V, 3, H, W) and viewpoints (B, V, 3).
        num_draws, num_chains: the numbers of draws and chains. Draws are independent, but chains let ArviZ compare
            them.
        truth: the scenes with their true masks, if they are known.
        num_predictive: how many draws of each chain images are simulated from.

    Raises:
        ValueError: for counts below one, the truth of other scenes, or too many slots for an exact permanent.
        TraceError: (a ValueError) in train mode.
    """
    check_counts(num_predictive=num_predictive)
    log_joint, q = LogJoint(model, *arguments), guide.posterior(*arguments)
    seen = Observed(log_joint, q, truth)
    return bundle(posterior_groups(seen, guide_draws(log_joint, q, num_draws, num_chains), num_predictive))


@torch.no_grad()
def draws_to_inference_data(
    draws: Draws,
    model: SlotModel,
    guide: SceneGuide,
    *arguments: Tensor,
    truth: Scene | None = None,
    num_predictive: int = 10,
) -> Any:
    """Do the same as `to_inference_data` with other draws, such as those of `importance_draws` and `nuts_draws`."""
    check_counts(num_predictive=num_predictive)
    seen = Observed(LogJoint(model, *arguments), guide.posterior(*arguments), truth)
    return bundle(posterior_groups(seen, draws, num_predictive))


def bundle(groups: Groups) -> Any:
    """Bundle groups in the form of the installed ArviZ: InferenceData for 0.2x, and DataTree for 1.x."""
    if ARVIZ < 1:
        return arviz.InferenceData(**groups)  # type: ignore[arg-type]
    return xarray.DataTree.from_dict(groups)


def groups_of(data: Any) -> Groups:
    """The groups of data that `bundle` has made, or that ArviZ has read from a file."""
    if ARVIZ < 1:
        return {name: data[name] for name in data.groups()}
    return {name: child.to_dataset() for name, child in data.children.items()}


def save_inference_data(path: Path, data: Any) -> None:
    """Write ArviZ data atomically into a NetCDF file, which ArviZ 0.2x and 1.x and plain xarray open."""
    write_netcdf(path, groups_of(data), compressed=True)


def load_groups(path: Path, *names: str) -> Groups:
    """Load some groups of a file of draws.

    Raises:
        InferenceDataError: if the file or a group is missing, or cannot be read.
    """
    if not path.is_file():
        raise InferenceDataError(f"{path}: expected draws, found no such file; `compvae diagnose` makes it")
    groups = {}
    for name in names:
        try:
            groups[name] = read_netcdf(path, name)
        except DataError as error:
            raise InferenceDataError(
                f"{path}: expected the group {name!r}, which cannot be read ({error}); was it written by `compvae "
                "diagnose`?"
            ) from error
    return groups
