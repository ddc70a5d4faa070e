"""Posterior-predictive checks, pixel by pixel: could the model have made this image?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import xarray
from torch import Tensor

from pyro_compvae.analysis.posterior.draws import Draws
from pyro_compvae.images import check_images, check_views
from pyro_compvae.mixture import SpatialGaussianMixture
from pyro_compvae.models import SlotModel

VARIABLES = ("pit", "pit_replicated", "residual", "standard_deviation")


@torch.no_grad()
def predictive_checks(model: SlotModel, draws: Draws, images: Tensor, *viewpoints: Tensor) -> xarray.Dataset:
    r"""Compare the image x with its posterior-predictive distribution p(x' | x) = E_{z | x} p(x' | z).

    pit: P(x' ≤ x) for every channel of every pixel, computed exactly from the distribution function of the mixture.
    pit_replicated: the same for an image drawn from p(x' | z) at the last draw, which shows the pit of a correct model:
        since the posterior has seen x, the pit of a good model is not uniform.
    residual: x − E[x'], in units of colour.
    standard_deviation: that of x' in units of colour, which includes the model's noise.

    All have the dimensions (source, scene[, view], channel, y, x), with one source, that of the draws.

    Args:
        model: the model, in eval mode.
        draws: draws for the scenes.
        images: the images (B, 3, H, W), or (B, V, 3, H, W).
        viewpoints: the viewpoints (B, V, 3), if there are several views.

    Raises:
        ArgumentError: for images or viewpoints that are not those of the model.
    """
    if viewpoints:
        check_views(images, viewpoints[0], model)
    else:
        check_images(images, model)
    z = draws.z.flatten(0, 1).to(images)
    replicated = scene_likelihood(model, z[-1], *viewpoints).sample()
    pit, pit_replicated, mean, square = (torch.zeros_like(images, dtype=torch.float64) for _ in range(4))
    for one in z:
        mixture = scene_likelihood(model, one, *viewpoints)
        pit += channel_cdf(mixture, images)
        pit_replicated += channel_cdf(mixture, replicated)
        mean += mixture.mean
        square += (mixture.log_masks.exp().unsqueeze(-3) * mixture.means.square()).sum(-4) + mixture.scale**2
    mean /= len(z)
    deviation = (square / len(z) - mean.square()).sqrt()
    seen = ("scene", "view") if images.dim() == 5 else ("scene",)
    values = (pit / len(z), pit_replicated / len(z), images - mean, deviation)
    return xarray.Dataset(
        {
            name: (("source", *seen, "channel", "y", "x"), value[None].float().cpu().numpy())
            for name, value in zip(VARIABLES, values, strict=True)
        },
        coords={"source": [draws.source]},
    )


def channel_cdf(mixture: SpatialGaussianMixture, x: Tensor) -> Tensor:
    """P(x'_ci ≤ x_ci) = Σ_k m_ki Φ((x_ci − μ_kci) / σ) for every channel of every pixel, with the shape of x."""
    standardised = (x.unsqueeze(-4) - mixture.means) / mixture.scale
    return (mixture.log_masks.exp().unsqueeze(-3) * (0.5 * torch.erfc(-standardised / math.sqrt(2)))).sum(-4)


def join_sources(parts: Sequence[xarray.Dataset]) -> xarray.Dataset:
    """Join the checks of draws from several sources for the same scenes."""
    return xarray.concat(parts, dim="source")


def scene_likelihood(model: SlotModel, z: Tensor, *viewpoints: Tensor) -> SpatialGaussianMixture:
    """p(x | z) of all views of every scene, of batch shape (B[, V]), for z (B, K, D) and viewpoints (B, V, 3)."""
    return model.likelihood(z.unsqueeze(1), viewpoints[0]) if viewpoints else model.likelihood(z)


def checks_table(checks: xarray.Dataset) -> str:
    """A line per source: the shares of observed and replicated pixels in the tails, and the size of residuals."""
    lines = []
    for source in checks["source"].values:
        one = checks.sel(source=source)
        tails, expected = (float(((one[name] < 0.025) | (one[name] > 0.975)).mean()) for name in VARIABLES[:2])
        scale = float(((one["residual"] / one["standard_deviation"]) ** 2).mean() ** 0.5)
        lines.append(
            f"predictive checks, {source}: {tails:.1%} of the observed colours lie outside the central 95 % of their "
            f"predictive distribution, {expected:.1%} of replicated ones; residuals are {scale:.2f} standard deviations"
        )
    return "\n".join(lines)
