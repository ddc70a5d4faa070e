"""Evaluation of a guide on a set of scenes: how well it explains and decomposes them, and how its slots are used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.analysis.metrics.duplicates import active_slots, duplicate_score
from pyro_compvae.analysis.metrics.segmentation import adjusted_rand_index, mean_iou, mean_squared_error
from pyro_compvae.data.records import Scene
from pyro_compvae.data.scenes import SceneSet
from pyro_compvae.errors import ArgumentError
from pyro_compvae.guide import SceneGuide, prior_kl, slot_kl
from pyro_compvae.precision import exact_products

IMAGE_METRICS = ("mse", "miou", "ari", "ari_fg", "duplicates", "duplicates_latent", "active_slots", "mask_entropy")
MASK_METRICS = ("miou", "ari", "ari_fg", "duplicates")
"""Those of IMAGE_METRICS that need true masks."""
Decoded = Literal["mean", "sample"]
"""Which z image metrics are computed from: the posterior mean, or a sample of the posterior."""

QUERY_METRICS = ("query_log_likelihood", "query_mse", "query_miou", "query_ari", "query_ari_fg")


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


@torch.no_grad()
@exact_products()
def scene_metrics(guide: SceneGuide, scene: Scene, decoded: Decoded = "mean") -> dict[str, Tensor]:
    """Metrics of every scene of a batch, (B,) each.

    elbo: single-sample ELBO with the analytic KL, nats per scene
    mse, miou, ari, ari_fg: scores of the decomposition; ari_fg is NaN without foreground
    duplicates, duplicates_latent: pairs of active slots on one object or the background, and of cosine above 0.9
    active_slots: slots that hold at least 1 % of the pixels
    mask_entropy: mean entropy of a pixel's mixing proportions, nats; log K if masks carry no information
    kl_slot_1, ..., kl_slot_K: KL of every slot in nats, the largest first; a slot near 0 is unused

    For scenes without masks, MASK_METRICS are NaN.

    Of V views the first V // 2 are observed: the ELBO is that of these views, and the other metrics are means over
    them. The remaining views are queries, predicted from the posterior and their viewpoints:
    query_log_likelihood: at a sample of z, nats per view
    query_mse, query_miou, query_ari, query_ari_fg: as above

    Args:
        guide: the guide, in eval mode.
        scene: the batch of scenes.
        decoded: which z gives segmentations, reconstructions and duplicates: "mean" is the posterior mean, and "sample"
            the sample of the ELBO, as in MulMON's evaluation.

    Raises:
        ValueError: if a multi-view scene has one view only, or ``decoded`` is neither.
    """
    if decoded not in get_args(Decoded):
        raise ArgumentError(f"decoded: expected mean or sample, got {decoded!r}")
    if scene.image.dim() == 4:
        posterior = infer(guide, scene)
        z = posterior.sample()
        metrics = {"elbo": guide.model.likelihood(z).log_prob(scene.image) - prior_kl(posterior)}
        point = posterior.loc if decoded == "mean" else z
        metrics |= _image_metrics(decompose(guide, posterior, z=point), scene)
        return metrics | _slot_kls(posterior)
    num_views = scene.image.shape[1]
    if num_views < 2:
        raise ArgumentError(f"scene: expected at least 2 views, one to observe and one to query, got {num_views}")
    num_observed = num_views // 2
    posterior = infer(guide, scene.view(slice(num_observed)))
    z = posterior.sample()
    point = posterior.loc if decoded == "mean" else z
    log_likelihoods, per_view = [], []
    for v in range(num_views):
        view = scene.view(v)
        assert view.viewpoint is not None
        log_likelihoods.append(guide.model.likelihood(z, view.viewpoint).log_prob(view.image))
        per_view.append(_image_metrics(decompose(guide, posterior, view.viewpoint, z=point), view))
    observed, queried = per_view[:num_observed], per_view[num_observed:]
    metrics = {"elbo": torch.stack(log_likelihoods[:num_observed]).sum(0) - prior_kl(posterior)}
    metrics |= {name: _mean(view[name] for view in observed) for name in IMAGE_METRICS}
    metrics |= {"query_log_likelihood": _mean(log_likelihoods[num_observed:])}
    metrics |= {name: _mean(view[name.removeprefix("query_")] for view in queried) for name in QUERY_METRICS[1:]}
    return metrics | _slot_kls(posterior)


def metric_names(num_slots: int, multi_view: bool = False) -> tuple[str, ...]:
    """The keys of `scene_metrics`, in order."""
    queries = QUERY_METRICS if multi_view else ()
    return ("elbo", *IMAGE_METRICS, *queries, *(f"kl_slot_{k}" for k in range(1, num_slots + 1)))


def evaluate(
    guide: SceneGuide, scenes: SceneSet, device: torch.device, batch_size: int = 64, decoded: Decoded = "mean"
) -> dict[str, float]:
    """Means of `scene_metrics` over a set, without the scenes for which a metric is undefined.

    A metric that is undefined in all scenes, such as those of masks if there are none, is NaN.
    """
    batches = [scene_metrics(guide, batch, decoded) for batch in scene_batches(scenes, device, batch_size)]
    return {name: torch.cat([batch[name] for batch in batches]).double().nanmean().item() for name in batches[0]}


@torch.no_grad()
def query_mse_by_views(
    guide: SceneGuide, scenes: SceneSet, device: torch.device, batch_size: int = 64
) -> dict[int, float]:
    """The MSE on one view of every scene, which is never observed, if 1, 2, ..., V − 1 of the others are observed.

    The views of each scene are shuffled, always in the same way, so that the query is in general no neighbour of the
    first view.

    Raises:
        ValueError: if the scenes are single images.
    """
    if scenes.num_views is None:
        raise ArgumentError("scenes: expected several views of each, got single images")
    V = scenes.num_views
    order = torch.rand(
        len(scenes), V, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu"
    ).argsort(1)
    shuffled = scenes.reorder_views(order)
    errors: dict[int, list[Tensor]] = {num_observed: [] for num_observed in range(1, V)}
    for batch in scene_batches(shuffled, device, batch_size):
        query = batch.view(-1)
        assert query.viewpoint is not None
        for num_observed in errors:
            posterior = infer(guide, batch.view(slice(num_observed)))
            reconstruction = decompose(guide, posterior, query.viewpoint).reconstruction
            errors[num_observed].append(mean_squared_error(reconstruction, query.image))
    return {num_observed: torch.cat(parts).double().mean().item() for num_observed, parts in errors.items()}


def scene_batches(scenes: SceneSet, device: torch.device, batch_size: int) -> list[Scene]:
    """The scenes of a set in batches on a device."""
    return [scenes[start : start + batch_size].to(device) for start in range(0, len(scenes), batch_size)]


def _image_metrics(decomposition: Decomposition, scene: Scene) -> dict[str, Tensor]:
    segmentation, labels, z = decomposition.segmentation, scene.labels, decomposition.z
    duplicates = duplicate_score(z, segmentation, labels)
    metrics = {
        "mse": mean_squared_error(decomposition.reconstruction, scene.image),
        "duplicates_latent": duplicates.latent,
        "active_slots": active_slots(segmentation, z.shape[1]).sum(1),
        "mask_entropy": torch.special.entr(decomposition.masks).sum(1).mean((1, 2)),
    }
    if labels is None or duplicates.claimed is None:
        metrics |= dict.fromkeys(MASK_METRICS, torch.full((len(z),), torch.nan, device=z.device))
    else:
        metrics |= {
            "miou": mean_iou(segmentation, labels),
            "ari": adjusted_rand_index(segmentation, labels),
            "ari_fg": adjusted_rand_index(segmentation, labels, foreground_only=True),
            "duplicates": duplicates.claimed,
        }
    return {name: metrics[name] for name in IMAGE_METRICS}


def _slot_kls(posterior: Normal) -> dict[str, Tensor]:
    kl = slot_kl(posterior).sort(dim=1, descending=True).values
    return {f"kl_slot_{k}": value for k, value in enumerate(kl.unbind(1), start=1)}


def _mean(values: Iterable[Tensor]) -> Tensor:
    """The mean over views, (B,), without those for which a metric is undefined."""
    return torch.stack([value.float() for value in values]).nanmean(0)
