"""Evaluation of a guide on a set of scenes: how well it explains and decomposes them, and how its slots are used."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.analysis.metrics.decomposition import Decoded, Decomposition, decompose, infer, infer_once
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

QUERY_METRICS = ("query_log_likelihood", "query_mse", "query_miou", "query_ari", "query_ari_fg")


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
    if scene.image.dim() == 5 and scene.image.shape[1] < 2:
        raise ArgumentError("scene: expected at least 2 views, one to observe and one to query, got 1")
    found = infer_once(guide, scene, decoded)
    if scene.image.dim() == 4:
        elbo = guide.model.likelihood(found.sample).log_prob(scene.image) - prior_kl(found.posterior)
        return {"elbo": elbo} | image_metrics(found.decomposition(0), scene) | _slot_kls(found.posterior)
    log_likelihoods, per_view = [], []
    for v, view in enumerate(found.views):
        assert view.viewpoint is not None
        log_likelihoods.append(guide.model.likelihood(found.sample, view.viewpoint).log_prob(view.image))
        per_view.append(image_metrics(found.decomposition(v), view))
    observed, queried = per_view[: found.num_observed], per_view[found.num_observed :]
    metrics = {"elbo": torch.stack(log_likelihoods[: found.num_observed]).sum(0) - prior_kl(found.posterior)}
    metrics |= {name: _mean(view[name] for view in observed) for name in IMAGE_METRICS}
    metrics |= {"query_log_likelihood": _mean(log_likelihoods[found.num_observed :])}
    metrics |= {name: _mean(view[name.removeprefix("query_")] for view in queried) for name in QUERY_METRICS[1:]}
    return metrics | _slot_kls(found.posterior)


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
    metrics = set_metrics(guide, scenes, device, batch_size, decoded)
    return {name: values.nanmean().item() for name, values in metrics.items()}


def set_metrics(
    guide: SceneGuide, scenes: SceneSet, device: torch.device, batch_size: int = 64, decoded: Decoded = "mean"
) -> dict[str, Tensor]:
    """`scene_metrics` of every scene of a set, (N,) float64 each."""
    batches = [scene_metrics(guide, batch, decoded) for batch in scene_batches(scenes, device, batch_size)]
    return {name: torch.cat([batch[name] for batch in batches]).double() for name in batches[0]}


def standard_error(values: Tensor) -> float:
    """The standard error of the mean of values (N,), without those that are NaN; NaN for fewer than two."""
    known = values[~values.isnan()]
    return (known.std() / len(known) ** 0.5).item() if len(known) > 1 else math.nan


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


def image_metrics(decomposition: Decomposition, scene: Scene) -> dict[str, Tensor]:
    """IMAGE_METRICS of a decomposition of one view of every scene, (B,) each; see `scene_metrics`."""
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
