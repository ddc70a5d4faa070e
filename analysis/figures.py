"""Pictures of decompositions, laid out as the paper's Figure 3."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from analysis.evaluation import Decomposition
from pyro_compvae.checkpoint import atomic_path
from pyro_compvae.data.scenes import Scene

# Okabe & Ito's palette, safe for the colour-blind; black is kept for the true background.
PALETTE = np.array(
    [
        (0.00, 0.45, 0.70),
        (0.90, 0.62, 0.00),
        (0.00, 0.62, 0.45),
        (0.80, 0.47, 0.65),
        (0.34, 0.71, 0.91),
        (0.84, 0.37, 0.00),
        (0.94, 0.89, 0.26),
        (0.60, 0.60, 0.60),
    ]
)

GREY = 0.75


def colour_labels(labels: Tensor) -> NDArray:
    """Labels (H, W) as colours (H, W, 3) in [0, 1]; colours repeat after eight labels."""
    return PALETTE[labels.cpu().numpy() % len(PALETTE)]


def colour_truth(labels: Tensor) -> NDArray:
    """True labels (H, W), 0 for the background, as colours (H, W, 3) in [0, 1] on black."""
    return np.where((labels == 0).cpu().numpy()[..., None], 0.0, colour_labels(labels - 1))


def decomposition_figure(path: Path, scene: Scene, decomposition: Decomposition, title: str = "") -> None:
    """Draw scenes as rows: observation, reconstruction, K components, segmentation, truth (paper, Figure 3).

    A component is its mean weighted by its mask, on grey, so that what a slot does not claim stays grey.

    Args:
        path: PNG file, written atomically.
        scene: B scenes.
        decomposition: of these scenes.
        title: above the picture.
    """
    rows, num_slots = decomposition.masks.shape[:2]
    columns = ["observation", "reconstr.", *(f"slot {k + 1}" for k in range(num_slots)), "segment.", "truth"]
    masks = decomposition.masks.unsqueeze(2)
    components = masks * decomposition.means + (1 - masks) * GREY
    figure = Figure(figsize=(1.1 * len(columns), 1.1 * rows + 0.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for b in range(rows):
        pictures = [
            _pixels(scene.image[b]),
            _pixels(decomposition.reconstruction[b]),
            *(_pixels(component) for component in components[b]),
            colour_labels(decomposition.segmentation[b]),
            colour_truth(scene.labels[b]),
        ]
        for axis, picture in zip(axes[b], pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, name in zip(axes[0], columns, strict=True):
        axis.set_title(name, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _pixels(image: Tensor) -> NDArray:
    """(3, H, W) → (H, W, 3), clipped to what can be shown."""
    return torch.clamp(image, 0, 1).movedim(0, -1).cpu().numpy()
