"""Figures that a run draws while it trains."""

from __future__ import annotations

from pathlib import Path

from pyro_compvae.analysis.figures.decompositions import decomposition_figure, traversal_figure, views_figure
from pyro_compvae.analysis.metrics.decomposition import decompose, infer
from pyro_compvae.data.records import Scene
from pyro_compvae.guide import SceneGuide


def look_figure(path: Path, guide: SceneGuide, scene: Scene, title: str) -> None:
    """Draw scenes as rows, or the views of one scene, of which the first half is observed."""
    if scene.image.dim() == 5:
        views_figure(path, guide, scene, max(scene.image.shape[1] // 2, 1), title)
    else:
        decomposition_figure(path, scene, decompose(guide, infer(guide, scene)), title)


def traverse(path: Path, guide: SceneGuide, scene: Scene) -> None:
    """Draw the first scene while the latents of the slot that holds most of its foreground move."""
    first = scene.scenes(slice(1))
    posterior = infer(guide, first)
    view = first.view(0) if first.image.dim() == 5 else first
    viewpoint = () if view.viewpoint is None or first.image.dim() == 4 else (view.viewpoint,)
    segmentation = decompose(guide, posterior, *viewpoint).segmentation
    foreground = segmentation.flatten() if view.labels is None else segmentation[view.labels > 0]
    slot = int(foreground.mode().values) if len(foreground) else 0
    traversal_figure(path, guide, posterior, slot, *viewpoint)
