"""Posterior-predictive checks, pixel by pixel: would the model have made this image?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import xarray
from torch import Tensor

from pyro_compvae.analysis.posterior.draws import Draws
from pyro_compvae.mixture import SpatialGaussianMixture
from pyro_compvae.models import SlotModel

VARIABLES = ("pit", "pit_replicated", "residual", "standard_deviation")


@torch.no_grad()
def predictive_checks(model: SlotModel, draws: Draws, images: Tensor, *viewpoints: Tensor) -> xarray.Dataset:
    r"""What the posterior-predictive distribution p(x' | x) = E_{z | x} p(x' | z) says of the very image x.

    pit: P(x' ≤ x) of every channel of every pixel, exactly, from the distribution function of the mixture.
    pit_replicated: the same of an image drawn from p(x' | z) at the last draw: what the pit looks like where the model
        is right, for x has been seen by the posterior, and the pit of a good model is not uniform.
    residual: x − E[x'], colours.
    standard_deviation: of x', colours, noise of the model included.

    All (source, scene[, view], channel, y, x), with one source, that of the draws.

    Args:
        model: in eval mode.
        draws: of the scenes.
        images: (B, 3, H, W), or (B, V, 3, H, W).
        viewpoints: (B, V, 3), with several views.
    """
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
    """P(x'_ci ≤ x_ci) of every channel of every pixel on its own: Σ_k m_ki Φ((x_ci − μ_kci) / σ), of the shape of x."""
    standardised = (x.unsqueeze(-4) - mixture.means) / mixture.scale
    return (mixture.log_masks.exp().unsqueeze(-3) * (0.5 * torch.erfc(-standardised / math.sqrt(2)))).sum(-4)


def join_sources(parts: Sequence[xarray.Dataset]) -> xarray.Dataset:
    """The checks of draws from several sources of the same scenes."""
    return xarray.concat(parts, dim="source")


def scene_likelihood(model: SlotModel, z: Tensor, *viewpoints: Tensor) -> SpatialGaussianMixture:
    """p(x | z) of all views of every scene: z (B, K, D), viewpoints (B, V, 3) → images of batch shape (B[, V])."""
    return model.likelihood(z.unsqueeze(1), viewpoints[0]) if viewpoints else model.likelihood(z)


def checks_table(checks: xarray.Dataset) -> str:
    """A line per source: how much of the observed and the replicated pixels lies in the tails, and how far off."""
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
