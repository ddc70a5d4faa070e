"""Decompositions of scenes into slots: one inference of a batch, decoded into every view."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.data.records import Scene
from pyro_compvae.errors import ArgumentError
from pyro_compvae.guide import SceneGuide
from pyro_compvae.precision import exact_products

Decoded = Literal["mean", "sample"]
"""Which z image metrics are computed from: the posterior mean, or a sample of the posterior."""


class Decomposition(NamedTuple):
    """The decompositions of B scenes into slots, in one image each, decoded from one z each.

    posterior: q(z | x), batch shape (B, K, D)
    z: the slots that are decoded, (B, K, D), by default the posterior mean
    reconstruction: E[x | z], (B, 3, H, W) in [0, 1]
    means: the slots' images, (B, K, 3, H, W) in [0, 1]
    masks: mixing proportions, (B, K, H, W), which sum to one over K
    segmentation: the slot of largest proportion, (B, H, W) int64
    """

    posterior: Normal
    z: Tensor
    reconstruction: Tensor
    means: Tensor
    masks: Tensor
    segmentation: Tensor


@torch.no_grad()
def infer(guide: SceneGuide, scene: Scene) -> Normal:
    """q(z | x), batch shape (B, K, D), of a batch of scenes, from all their views."""
    return guide.posterior(*guide.arguments(scene))


@torch.no_grad()
def decompose(guide: SceneGuide, posterior: Normal, *viewpoint: Tensor, z: Tensor | None = None) -> Decomposition:
    """Decode a posterior into an image of each scene, from viewpoints (B, 3) if the model has any.

    Args:
        guide: the guide, which holds the model.
        posterior: the posterior, of batch shape (B, K, D).
        viewpoint: the viewpoints (B, 3).
        z: a sample (B, K, D) to decode, instead of the posterior mean.
    """
    z = posterior.loc if z is None else z
    mixture = guide.model.likelihood(z, *viewpoint)
    masks = mixture.log_masks.exp()
    return Decomposition(posterior, z, mixture.mean, mixture.means, masks, masks.argmax(1))


@torch.no_grad()
def uncertainty(guide: SceneGuide, posterior: Normal, *viewpoint: Tensor, num_samples: int = 16) -> Tensor:
    """The standard deviation of a pixel's predicted colour over posterior samples, a mean over channels, (B, H, W)."""
    samples = [guide.model.likelihood(posterior.sample(), *viewpoint).mean for _ in range(num_samples)]
    return torch.stack(samples).std(0).mean(1)


class SceneInference(NamedTuple):
    """One inference of B scenes, from which both their pictures and the metrics beside these are made.

    Guides such as IODINE's draw random numbers while they infer, so that two calls give two posteriors.

    guide: the guide that inferred, with its model
    posterior: q(z | x) given the observed views, batch shape (B, K, D)
    sample: a sample of it, (B, K, D)
    z: what is decoded: the posterior's mean or the sample, (B, K, D)
    scene: the batch of scenes
    num_observed: how many of the views, from the first on, the guide saw
    """

    guide: SceneGuide
    posterior: Normal
    sample: Tensor
    z: Tensor
    scene: Scene
    num_observed: int

    @property
    def views(self) -> list[Scene]:
        """The scenes as seen in each view; single images have one."""
        if self.scene.image.dim() == 4:
            return [self.scene]
        return [self.scene.view(v) for v in range(self.scene.image.shape[1])]

    @torch.no_grad()
    @exact_products()
    def decomposition(self, view: int) -> Decomposition:
        """What z decodes to in a view. It is not kept, since all views of many scenes take much memory."""
        # Single images may have a viewpoint, which models of single images know nothing of.
        viewpoint = self.views[view].viewpoint if self.scene.image.dim() == 5 else None
        return decompose(self.guide, self.posterior, *(() if viewpoint is None else (viewpoint,)), z=self.z)


@torch.no_grad()
@exact_products()
def infer_once(guide: SceneGuide, scene: Scene, decoded: Decoded = "mean") -> SceneInference:
    """Infer a batch of scenes. Of V views the first V // 2 are observed, and at least one.

    Args:
        guide: the guide, in eval mode.
        scene: the batch of scenes.
        decoded: whether the posterior mean or a sample is decoded.

    Raises:
        ValueError: if ``decoded`` is neither.
    """
    if decoded not in get_args(Decoded):
        raise ArgumentError(f"decoded: expected mean or sample, got {decoded!r}")
    several = scene.image.dim() == 5
    num_observed = max(scene.image.shape[1] // 2, 1) if several else 1
    posterior = infer(guide, scene.view(slice(num_observed)) if several else scene)
    sample = posterior.sample()
    return SceneInference(guide, posterior, sample, posterior.loc if decoded == "mean" else sample, scene, num_observed)
