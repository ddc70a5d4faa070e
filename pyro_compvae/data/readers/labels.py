"""Label maps from what public data sets store instead."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pyro_compvae.data.records import MAX_LABELS
from pyro_compvae.errors import ArgumentError


def labels_of_masks(masks: NDArray) -> NDArray[np.uint8]:
    """Masks (E, H, W) of E entities, zero where an entity is not, as labels (H, W) of the largest of them.

    A pixel of no entity becomes 0, the background. (The ARI of multi_object_datasets leaves such pixels out; there are
    none unless masks were resampled.)

    Raises:
        ValueError: for more entities than labels can tell apart.
    """
    if len(masks) > MAX_LABELS:
        raise ArgumentError(f"masks: expected at most {MAX_LABELS} entities, got {len(masks)}")
    return masks.argmax(0).astype(np.uint8)


def merge_background(labels: NDArray[np.uint8], num_background: int) -> NDArray[np.uint8]:
    """The first so many entities become 0, the background, the others 1, 2, ..."""
    return np.where(labels < num_background, 0, labels - (num_background - 1)).astype(np.uint8)


def count_objects(labels: NDArray[np.uint8]) -> int:
    """Objects with a pixel, background not counted."""
    return int(np.count_nonzero(np.bincount(labels.ravel(), minlength=1)[1:]))
