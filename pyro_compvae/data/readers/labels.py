"""Label maps, made of the masks that public data sets store instead."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pyro_compvae.data.records import MAX_LABELS
from pyro_compvae.errors import ArgumentError


def labels_of_masks(masks: NDArray) -> NDArray[np.uint8]:
    """Labels (H, W) of masks (E, H, W): the index of the entity whose mask is largest; masks are zero outside of it.

    A pixel without an entity becomes 0, the background. (The ARI of multi_object_datasets leaves such pixels out; they
    occur only if masks were resampled.)

    Raises:
        ValueError: for more entities than there are labels.
    """
    if len(masks) > MAX_LABELS:
        raise ArgumentError(f"masks: expected at most {MAX_LABELS} entities, got {len(masks)}")
    return masks.argmax(0).astype(np.uint8)


def merge_background(labels: NDArray[np.uint8], num_background: int) -> NDArray[np.uint8]:
    """Relabel the first num_background entities 0, which is the background, and the others 1, 2, ..."""
    return np.where(labels < num_background, 0, labels - (num_background - 1)).astype(np.uint8)


def count_objects(labels: NDArray[np.uint8]) -> int:
    """The number of objects with at least one pixel, without the background."""
    return int(np.count_nonzero(np.bincount(labels.ravel(), minlength=1)[1:]))
