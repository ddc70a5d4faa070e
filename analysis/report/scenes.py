"""Decompositions of test scenes for the viewer of a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from pyro_compvae.analysis.figures.decompositions import colour_labels, colour_truth, components, pixels
from pyro_compvae.analysis.metrics.evaluation import Decomposition, decompose, infer, scene_metrics
from pyro_compvae.analysis.report.blocks import Numbers, Part, Scenes
from pyro_compvae.analysis.report.drawing import data_uri, label_string
from pyro_compvae.analysis.report.folders import Missing, ReportedRun
from pyro_compvae.analysis.tables import Table
from pyro_compvae.data import DataError
from pyro_compvae.data.records import Scene
from pyro_compvae.guide import slot_kl

SHOWN = ("miou", "ari_fg", "mse", "duplicates", "duplicates_latent", "active_slots")
"""The metrics that are shown for every scene."""


def shown_scenes(reported: ReportedRun, num_scenes: int) -> list[dict[str, Any]]:
    """The decompositions of the first test scenes by a run, as data that the page's script reads.

    Every scene has ``metrics`` and ``views``. Every view has the data URIs of its ``observation``, ``reconstruction``,
    ``segmentation`` and ``truth``, the ``slots`` (data URI, share of the pixels), their ``kl`` in nats, ``labels``
    (`label_string` of the segmentation) and the ``size`` (H, W). Views after the first V // 2 were not observed.

    Raises:
        Missing: if the run or its scenes cannot be loaded.
    """
    run = reported.loaded()
    try:
        scenes = run.scenes("test")[:num_scenes].to(run.device)
    except DataError as error:
        raise Missing(f"Test scenes cannot be loaded: {error}") from error
    torch.manual_seed(reported.config.seed)
    metrics = scene_metrics(run.guide, scenes)
    views = [scenes.view(v) for v in range(scenes.image.shape[1])] if reported.config.multi_view else [scenes]
    num_observed = max(len(views) // 2, 1)
    posterior = infer(run.guide, scenes.view(slice(num_observed)) if reported.config.multi_view else scenes)
    kl = slot_kl(posterior)
    pictures = []
    for v, view in enumerate(views):
        viewpoint = () if not reported.config.multi_view or view.viewpoint is None else (view.viewpoint,)
        decomposition = decompose(run.guide, posterior, *viewpoint)
        name = f"view {v + 1}, {'observed' if v < num_observed else 'predicted'}" if reported.config.multi_view else ""
        pictures.append(
            [
                _view(view, decomposition, b) | {"kl": [round(float(value), 1) for value in kl[b]], "name": name}
                for b in range(len(view.image))
            ]
        )
    return [
        {
            "metrics": {name: round(float(metrics[name][b]), 4) for name in SHOWN if not metrics[name][b].isnan()},
            "objects": None if scenes.num_objects is None else int(scenes.num_objects[b]),
            "views": [view[b] for view in pictures],
        }
        for b in range(len(scenes.image))
    ]


def _view(scene: Scene, decomposition: Decomposition, b: int) -> dict[str, Any]:
    segmentation = decomposition.segmentation[b]
    labels = segmentation.cpu().numpy()
    return {
        "observation": data_uri(pixels(scene.image[b])),
        "reconstruction": data_uri(pixels(decomposition.reconstruction[b])),
        "segmentation": data_uri(colour_labels(segmentation)),
        "truth": None if scene.labels is None else data_uri(colour_truth(scene.labels[b])),
        "slots": [
            {"src": data_uri(pixels(component)), "share": round(float((labels == k).mean()), 4)}
            for k, component in enumerate(components(decomposition)[b])
        ],
        "labels": label_string(labels),
        "size": list(labels.shape),
    }


def duplicates_part(name: str, scenes: Sequence[dict[str, Any]]) -> Part:
    """The scenes that have pairs of slots on one object, or pairs of nearly the same direction, and their number."""
    known = [metric for metric in DUPLICATES if all(metric in scene["metrics"] for scene in scenes)]
    counts = {metric: [math.ceil(scene["metrics"][metric]) for scene in scenes] for metric in known}
    heads = ("pairs in a scene", *(DUPLICATES[metric] for metric in known))
    rows = []
    for number, label in ((0, "none"), (1, "1"), (2, "2"), (3, "3 or more")):
        found = [sum(min(count, 3) == number for count in values) for values in counts.values()]
        rows.append((label, *(f"{count} of {len(scenes)}" for count in found)))
    which = tuple(b for b in range(len(scenes)) if any(values[b] > 0 for values in counts.values()))
    return Part(
        name, [Numbers(f"The {len(scenes)} scenes above", Table(heads, tuple(rows))), Scenes("Scenes with any", which)]
    )


DUPLICATES = {"duplicates": "on one object", "duplicates_latent": "of cosine > 0.9"}
