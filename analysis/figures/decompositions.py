"""Figures of decompositions, laid out like the paper's Figure 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axis import Tick
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.analysis.metrics.evaluation import Decomposition, decompose, infer, uncertainty
from pyro_compvae.data.records import Scene
from pyro_compvae.errors import ArgumentError
from pyro_compvae.guide import SceneGuide
from pyro_compvae.runs.files import atomic_path

# This is Okabe & Ito's palette, which is safe for the colour-blind; black is kept for the true background.
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
    """Draw scenes as rows: observation, reconstruction, K components, segmentation, and truth if known (paper, Figure
    3).

    A component is its mean weighted by its mask, on grey, so that pixels that a slot does not claim stay grey.

    Args:
        path: the PNG file, written atomically.
        scene: B scenes.
        decomposition: their decomposition.
        title: the title above the picture.
    """
    columns, pictures = _decomposition_rows(scene, decomposition)
    _draw(path, pictures, columns, title=title)


def compared_figure(path: Path, rows: Mapping[str, tuple[Scene, Decomposition]], title: str = "") -> None:
    """Draw decompositions by several models as rows, laid out as in `decomposition_figure`.

    Models may differ in K; rows with fewer slots have empty places.

    Args:
        path: the PNG file, written atomically.
        rows: a batch of one scene and its decomposition, by the name of the row.
        title: the title above the picture.
    """
    num_slots = max(decomposition.masks.shape[1] for _, decomposition in rows.values())
    columns: list[str] = []
    pictures = []
    for scene, decomposition in rows.values():
        names, (row,) = _decomposition_rows(scene, decomposition)
        own = decomposition.masks.shape[1]
        missing, place = num_slots - own, 2 + own
        pictures.append([*row[:place], *[np.ones_like(row[0])] * missing, *row[place:]])
        if not missing:
            columns = names
    _draw(path, pictures, columns, rows=list(rows), title=title)


def views_figure(path: Path, guide: SceneGuide, scene: Scene, num_observed: int, title: str = "") -> None:
    """Draw the views of one scene as rows; the first ones are observed, and the rest are queries.

    The columns are the view, its prediction, the prediction's standard deviation over posterior samples (black is none,
    and white is the largest of all views), K components, the segmentation and the true segmentation.

    Args:
        path: the PNG file, written atomically.
        guide: the guide of a multi-view model.
        scene: one scene of V views, as a batch of one.
        num_observed: how many of the views, from the first on, the guide sees.
        title: the title above the picture.

    Raises:
        ValueError: unless 1 <= num_observed <= V.
    """
    if not 1 <= num_observed <= scene.image.shape[1]:
        raise ArgumentError(f"num_observed: expected 1 to {scene.image.shape[1]} views, got {num_observed}")
    posterior = infer(guide, scene.view(slice(num_observed)))
    names, pictures, deviations = [], [], []
    columns: list[str] = []
    for v in range(scene.image.shape[1]):
        view = scene.view(v)
        assert view.viewpoint is not None
        columns, rows = _decomposition_rows(view, decompose(guide, posterior, view.viewpoint))
        deviations.append(uncertainty(guide, posterior, view.viewpoint)[0].cpu().numpy())
        pictures.append(rows[0])
        names.append(f"observed {v + 1}" if v < num_observed else f"query {v + 1}")
    # With this floor a posterior without any spread is black throughout, in spite of rounding errors.
    largest = max(1e-6, *(float(deviation.max()) for deviation in deviations))
    for row, deviation in zip(pictures, deviations, strict=True):
        row.insert(2, np.repeat(deviation[..., None] / largest, 3, axis=2))
    columns = [*columns[:2], f"s.d. ≤ {largest:.2f}", *columns[2:]]
    _draw(path, pictures, columns, rows=names, title=title)


def traversal_figure(path: Path, guide: SceneGuide, posterior: Normal, slot: int, *viewpoint: Tensor) -> None:
    """Draw one scene while one latent dimension of one slot moves, with a row per dimension and a column per value.

    Args:
        path: the PNG file, written atomically.
        guide: the guide, which holds the model.
        posterior: the posterior of one scene, of batch shape (1, K, D); the other latents stay at its mean.
        slot: the number of the slot that moves.
        viewpoint: the viewpoint (1, 3), if the model has any.
    """
    values = (-2.0, -1.0, 0.0, 1.0, 2.0)
    pictures = []
    for d in range(posterior.loc.shape[-1]):
        row = []
        for value in values:
            z = posterior.loc.clone()
            z[:, slot, d] = value
            with torch.no_grad():
                row.append(pixels(guide.model.likelihood(z, *viewpoint).mean[0]))
        pictures.append(row)
    names = [f"z {d + 1}" for d in range(len(pictures))]
    _draw(path, pictures, [f"{value:+.0f}" for value in values], rows=names, title=f"slot {slot + 1}")


def samples_figure(path: Path, rows: Mapping[str, Tensor], title: str = "") -> None:
    """Draw images (B, 3, H, W) of several kinds, each kind in its own row.

    Args:
        path: the PNG file, written atomically.
        rows: the images by the name of their kind, with the same number of each.
        title: the title above the picture.
    """
    pictures = [[pixels(image) for image in images] for images in rows.values()]
    _draw(path, pictures, [""] * len(pictures[0]), rows=list(rows), title=title)


def contact_sheet(path: Path, scene: Scene, title: str = "") -> None:
    """Draw scenes as columns, with every view, and below it the true labels if there are any.

    Args:
        path: the PNG file, written atomically.
        scene: B scenes.
        title: the title above the picture.
    """
    images = scene.image if scene.image.dim() == 5 else scene.image[:, None]
    labels = scene.labels if scene.labels is None or scene.labels.dim() == 4 else scene.labels[:, None]
    pictures = []
    for v in range(images.shape[1]):
        pictures.append([pixels(image) for image in images[:, v]])
        if labels is not None:
            pictures.append([colour_truth(label) for label in labels[:, v]])
    counts = [""] * len(images) if scene.num_objects is None else [f"{count} objects" for count in scene.num_objects]
    _draw(path, pictures, counts, title=title)


def components(decomposition: Decomposition) -> Tensor:
    """The slots' means weighted by their masks, on grey where they claim nothing, (B, K, 3, H, W)."""
    masks = decomposition.masks.unsqueeze(2)
    return masks * decomposition.means + (1 - masks) * GREY


def _decomposition_rows(scene: Scene, decomposition: Decomposition) -> tuple[list[str], list[list[NDArray]]]:
    """The names of the columns, and the pictures of every scene."""
    num_slots = decomposition.masks.shape[1]
    truth = [] if scene.labels is None else [[colour_truth(labels)] for labels in scene.labels]
    columns = ["observation", "reconstr.", *(f"slot {k + 1}" for k in range(num_slots)), "segment."]
    columns += ["truth"] if truth else []
    slots = components(decomposition)
    pictures = [
        [
            pixels(scene.image[b]),
            pixels(decomposition.reconstruction[b]),
            *(pixels(component) for component in slots[b]),
            colour_labels(decomposition.segmentation[b]),
            *(truth[b] if truth else ()),
        ]
        for b in range(len(slots))
    ]
    return columns, pictures


def _draw(
    path: Path, pictures: list[list[NDArray]], columns: list[str], rows: Sequence[str] = (), title: str = ""
) -> None:
    """Draw pictures (H, W, 3) in a grid with names of columns and rows."""
    figure = Figure(figsize=(1.1 * len(columns), 1.1 * len(pictures) + 0.6), dpi=120, layout="constrained")
    axes = figure.subplots(len(pictures), len(columns), squeeze=False)
    for b, row in enumerate(pictures):
        for axis, picture in zip(axes[b], row, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, name in zip(axes[0], columns, strict=True):
        axis.set_title(name, fontsize=8)
    for axis, name in zip(axes[:, 0], rows, strict=False):
        axis.set_ylabel(name, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=9)
    save_figure(path, figure)


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure in the format of the file's suffix, atomically, whatever backend is set.

    Its texts are not read as formulas.
    """
    FigureCanvasAgg(figure)
    numbers = {label for tick in figure.findobj(Tick) for label in (tick.label1, tick.label2)}
    for text in figure.findobj(Text):
        if text not in numbers:  # of which those on logarithmic axes are formulas
            text.set_parse_math(False)  # a run may be named a$b
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def pixels(image: Tensor) -> NDArray:
    """Convert an image (3, H, W) to an array (H, W, 3), clipped to [0, 1]."""
    return torch.clamp(image, 0, 1).movedim(0, -1).cpu().numpy()
