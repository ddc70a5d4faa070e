"""Decompositions of test scenes for the viewer of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from torch import Tensor

from pyro_compvae.analysis.figures.decompositions import components, pixels
from pyro_compvae.analysis.figures.labels import colour_segmentation, colour_truth, slot_colours
from pyro_compvae.analysis.metrics.decomposition import Decomposition, SceneInference, infer_once
from pyro_compvae.analysis.metrics.evaluation import image_metrics
from pyro_compvae.analysis.metrics.meanings import MEANINGS
from pyro_compvae.analysis.report.blocks import Numbers, Part, Scenes
from pyro_compvae.analysis.report.drawing import data_uri, label_string
from pyro_compvae.analysis.report.folders import Missing, ReportedRun
from pyro_compvae.analysis.tables import Table
from pyro_compvae.data import DataError
from pyro_compvae.data.records import Scene
from pyro_compvae.guide import slot_kl

SHOWN = ("miou", "ari_fg", "mse", "duplicates", "duplicates_latent", "active_slots")
"""The metrics that are shown for every view of every scene."""

DUPLICATES = ("duplicates", "duplicates_latent")


def shown_scenes(reported: ReportedRun, num_scenes: int) -> list[dict[str, Any]]:
    """The decompositions of the first test scenes by a run, as data that the page's script reads.

    Every scene has the number of its ``objects``, its ``pairs`` (DUPLICATES in the view with the most), and ``views``.
    Every view has the data URIs of its ``observation``, ``reconstruction``, ``segmentation`` and ``truth``, the
    ``slots`` (data URI, share of the pixels, colour in the segmentation), their ``kl`` in nats, ``labels``
    (`label_string` of the segmentation), the ``size`` (H, W), and the ``metrics`` of what is shown: all are of one
    inference. Views after the first V // 2 were not observed.

    Raises:
        Missing: if the run or its scenes cannot be loaded.
    """
    run = reported.loaded()
    try:
        scenes = run.scenes("test")[:num_scenes].to(run.device)
    except DataError as error:
        raise Missing(f"Test scenes cannot be loaded: {error}") from error
    torch.manual_seed(reported.config.seed)
    found = infer_once(run.guide, scenes)
    decompositions = [found.decomposition(v) for v in range(len(found.views))]
    metrics = [image_metrics(one, view) for one, view in zip(decompositions, found.views, strict=True)]
    return [_scene(found, decompositions, metrics, b) for b in range(len(scenes.image))]


def _scene(
    found: SceneInference, decompositions: Sequence[Decomposition], metrics: Sequence[Mapping[str, Tensor]], b: int
) -> dict[str, Any]:
    """One scene, as `shown_scenes` describes it."""
    labels = [view.labels[b] for view in found.views if view.labels is not None]
    segmentations = torch.stack([one.segmentation[b] for one in decompositions])
    colours = slot_colours(segmentations, torch.stack(labels) if labels else None, found.z.shape[1])
    kl = [round(float(value), 1) for value in slot_kl(found.posterior)[b]]
    views = []
    for v, (view, one, of_view) in enumerate(zip(found.views, decompositions, metrics, strict=True)):
        name = f"view {v + 1}, {'observed' if v < found.num_observed else 'predicted'}" if len(found.views) > 1 else ""
        known = {name: round(float(of_view[name][b]), 4) for name in SHOWN if not of_view[name][b].isnan()}
        views.append(_view(view, one, colours, b) | {"kl": kl, "name": name, "metrics": known})
    pairs = {
        name: max(int(view["metrics"][name]) for view in views)
        for name in DUPLICATES
        if all(name in view["metrics"] for view in views)
    }
    objects = None if found.scene.num_objects is None else int(found.scene.num_objects[b])
    return {"objects": objects, "pairs": pairs, "views": views}


def _view(scene: Scene, decomposition: Decomposition, colours: NDArray, b: int) -> dict[str, Any]:
    segmentation = decomposition.segmentation[b]
    labels = segmentation.cpu().numpy()
    return {
        "observation": data_uri(pixels(scene.image[b])),
        "reconstruction": data_uri(pixels(decomposition.reconstruction[b])),
        "segmentation": data_uri(colour_segmentation(segmentation, colours)),
        "truth": None if scene.labels is None else data_uri(colour_truth(scene.labels[b])),
        "slots": [
            {
                "src": data_uri(pixels(component)),
                "share": round(float((labels == k).mean()), 4),
                "colour": to_hex(colour),
            }
            for k, (component, colour) in enumerate(zip(components(decomposition)[b], colours, strict=True))
        ],
        "labels": label_string(labels),
        "size": list(labels.shape),
    }


def duplicates_part(name: str, scenes: Sequence[dict[str, Any]], of: str) -> Part:
    """The scenes that have pairs of slots on one object, or pairs of nearly the same direction, and their number."""
    known = [metric for metric in DUPLICATES if all(metric in scene["pairs"] for scene in scenes)]
    counts = {metric: [scene["pairs"][metric] for scene in scenes] for metric in known}
    heads = ("pairs in a scene", *(MEANINGS[metric].name for metric in known))
    rows = []
    for number, label in ((0, "none"), (1, "1"), (2, "2"), (3, "3 or more")):
        found = [sum(min(count, 3) == number for count in values) for values in counts.values()]
        rows.append((label, *(f"{count} of {len(scenes)}" for count in found)))
    which = tuple(b + 1 for b in range(len(scenes)) if any(values[b] > 0 for values in counts.values()))
    several = ", each in its view with the most" if len(scenes[0]["views"]) > 1 else ""
    caption = f"Test scenes 1 to {len(scenes)}, as shown above{several}"
    return Part(name, [Numbers(caption, Table(heads, tuple(rows))), Scenes("Scenes with any", which)], of=of)
