"""Label maps in colours: a slot has the colour of the object that it is matched to, black for the background."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_compvae.analysis.figures.style import PALETTE
from pyro_compvae.analysis.metrics.segmentation import match_slots

LABEL_COLOURS = np.concatenate([PALETTE, 0.55 + 0.45 * PALETTE, 0.45 * PALETTE])
"""Colours of labels from 1 on; the second and third eight are lighter and darker, and after them colours repeat."""

BLACK = np.zeros(3)
"""The colour of the true background, and of the slot that is matched to it."""


def colour_truth(labels: Tensor) -> NDArray:
    """True labels (H, W), 0 for the background, as colours (H, W, 3) in [0, 1] on black."""
    numbers = labels.cpu().numpy()
    return np.where((numbers == 0)[..., None], BLACK, LABEL_COLOURS[(numbers - 1) % len(LABEL_COLOURS)])


def colour_segmentation(segmentation: Tensor, colours: NDArray) -> NDArray:
    """A segmentation (H, W) in the colours (K, 3) of its slots, (H, W, 3) in [0, 1]."""
    return colours[segmentation.cpu().numpy()]


def slot_colours(segmentations: Tensor, labels: Tensor | None, num_slots: int) -> NDArray:
    """The colour of every slot of one scene, (K, 3) in [0, 1], so that segmentation and truth are coloured alike.

    A slot takes the colour of the object that the Hungarian matching of `mean_iou` gives it. All other slots take
    colours that no object of the scene has.

    Args:
        segmentations: the slot of every pixel of V views, (V, H, W); slots and objects are the same in all views.
        labels: the true labels (V, H, W), or None, which leaves colours in the order of slots.
        num_slots: number of slots K.
    """
    if labels is None:
        return LABEL_COLOURS[np.arange(num_slots) % len(LABEL_COLOURS)]
    # The views are one tall image, as an object is the same in all of them.
    partners = match_slots(segmentations.flatten(0, 1)[None], labels.flatten(0, 1)[None], num_slots)[0].tolist()
    taken = {(int(label) - 1) % len(LABEL_COLOURS) for label in torch.unique(labels) if label > 0}
    free = itertools.cycle([i for i in range(len(LABEL_COLOURS)) if i not in taken] or range(len(LABEL_COLOURS)))
    colours = []
    for label in partners:
        if label == 0:
            colours.append(BLACK)
        else:
            colours.append(LABEL_COLOURS[next(free) if label < 0 else (label - 1) % len(LABEL_COLOURS)])
    return np.stack(colours)
