"""How well a guide explains and decomposes a set of scenes, and whether it is healthy."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from analysis.duplicates import active_slots, duplicate_score
from analysis.segmentation import adjusted_rand_index, mean_iou, mean_squared_error
from pyro_compvae.data.scenes import Scene, SceneSet
from pyro_compvae.guide import SceneGuide


class Decomposition(NamedTuple):
    """What a model makes of B scenes, at the posterior mean.

    posterior: q(z | x), batch shape (B, K, D)
    reconstruction: E[x | z], (B, 3, H, W) in [0, 1]
    means: the slots' images, (B, K, 3, H, W) in [0, 1]
    masks: mixing proportions, (B, K, H, W), sum to one over K
    segmentation: the slot of largest proportion, (B, H, W) int64
    """

    posterior: Normal
    reconstruction: Tensor
    means: Tensor
    masks: Tensor
    segmentation: Tensor


@torch.no_grad()
def decompose(guide: SceneGuide, x: Tensor) -> Decomposition:
    """Infer and decode images x (B, 3, H, W) in [0, 1]."""
    posterior = guide.posterior(x)
    mixture = guide.model.likelihood(posterior.loc)
    masks = mixture.log_masks.exp()
    return Decomposition(posterior, mixture.mean, mixture.means, masks, masks.argmax(1))


@torch.no_grad()
def scene_metrics(guide: SceneGuide, scene: Scene) -> dict[str, Tensor]:
    """Metrics of every scene of a batch, (B,) each.

    elbo: single-sample ELBO with the analytic KL, nats per scene
    mse, miou, ari, ari_fg: of the decomposition at the posterior mean; ari_fg is NaN without foreground
    duplicates, duplicates_latent: pairs of active slots on the same object or background, and of cosine above 0.9
    active_slots: slots that hold at least 1 % of the pixels
    mask_entropy: mean entropy of a pixel's mixing proportions, nats; log K where masks say nothing
    kl_slot_1, ..., kl_slot_K: KL of every slot in nats, the largest first; a slot near 0 is unused
    """
    x, labels = scene.image, scene.labels
    decomposition = decompose(guide, x)
    q, segmentation = decomposition.posterior, decomposition.segmentation
    kl = kl_divergence(q, Normal(torch.zeros_like(q.loc), torch.ones_like(q.scale))).sum(-1)  # (B, K)
    duplicates = duplicate_score(q.loc, segmentation, labels)
    log_likelihood = guide.model.likelihood(q.sample()).log_prob(x)
    metrics = {
        "elbo": log_likelihood - kl.sum(-1),
        "mse": mean_squared_error(decomposition.reconstruction, x),
        "miou": mean_iou(segmentation, labels),
        "ari": adjusted_rand_index(segmentation, labels),
        "ari_fg": adjusted_rand_index(segmentation, labels, foreground_only=True),
        "duplicates": duplicates.claimed,
        "duplicates_latent": duplicates.latent,
        "active_slots": active_slots(segmentation, q.loc.shape[1]).sum(1),
        "mask_entropy": torch.special.entr(decomposition.masks).sum(1).mean((1, 2)),
    }
    for k, slot_kl in enumerate(kl.sort(dim=1, descending=True).values.unbind(1), start=1):
        metrics[f"kl_slot_{k}"] = slot_kl
    return metrics


def metric_names(num_slots: int) -> tuple[str, ...]:
    """The keys of `scene_metrics`, in order."""
    names = ("elbo", "mse", "miou", "ari", "ari_fg", "duplicates", "duplicates_latent")
    health = ("active_slots", "mask_entropy", *(f"kl_slot_{k}" for k in range(1, num_slots + 1)))
    return names + health


def evaluate(guide: SceneGuide, scenes: SceneSet, device: torch.device, batch_size: int = 64) -> dict[str, float]:
    """Means of `scene_metrics` over a set; scenes where a metric is undefined are left out."""
    batches = [
        scene_metrics(guide, scenes[start : start + batch_size].to(device))
        for start in range(0, len(scenes), batch_size)
    ]
    return {name: torch.cat([batch[name] for batch in batches]).double().nanmean().item() for name in batches[0]}
