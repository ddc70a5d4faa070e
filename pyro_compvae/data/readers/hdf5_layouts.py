"""The HDF5 files of object-centric-library (Dittadi et al. 2022) and of EfficientMORL (Emami et al. 2021)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from pyro_compvae.data.readers.hdf5 import find_dataset, open_hdf5, read_rows
from pyro_compvae.data.readers.labels import count_objects, labels_of_masks, merge_background
from pyro_compvae.data.records import MAX_LABELS, DataError, StoredScene

OCL_WHERE_TO_GET = "download_data.py of https://github.com/addtt/object-centric-library"
EM_WHERE_TO_GET = "https://doi.org/10.5281/zenodo.4895643 (https://github.com/pemami4911/EfficientMORL)"


def read_object_centric_library(path: Path, num_background: int = 1) -> Iterator[StoredScene]:
    """The scenes of a file with `image` (N, H, W, C) and `mask` (N, H, W, 1), labels.

    The number of objects is `num_actual_objects` if the file has it, and is otherwise counted in the masks. The `.npy`
    file beside it is pickled; it is not needed, and not read.

    Args:
        path: the file.
        num_background: how many of the first labels are background; 4 in Objects Room.

    Raises:
        DataError: if the file is damaged or of another layout; the message names the array.
    """
    with open_hdf5(path) as file:
        images = find_dataset(file, "image", "(N, H, W, C)", 4, "u")
        masks = find_dataset(file, "mask", "(N, H, W, 1)", (3, 4), "uif")
        if masks.shape[:3] != images.shape[:3]:
            raise DataError(f"{path}: /mask: expected {images.shape[:3]} labels, got {masks.shape}.")
        counts = None
        if "num_actual_objects" in file:
            stored = read_rows(find_dataset(file, "num_actual_objects", "(N, 1)", (1, 2), "uif"), slice(None)).ravel()
            if len(stored) != len(images) or not ((stored >= 0) & (stored < MAX_LABELS)).all():
                raise DataError(f"{path}: /num_actual_objects: expected {len(images)} counts, got {stored}.")
            counts = stored.astype(int).tolist()
        for row in range(len(images)):
            labels = read_rows(masks, row).reshape(images.shape[1:3])
            _check_whole(labels, MAX_LABELS - 1, masks, row)
            merged = merge_background(labels.astype(np.uint8), num_background)
            yield StoredScene(_colours(images, row), merged, count_objects(merged) if counts is None else counts[row])


def read_efficient_morl(path: Path, split: str) -> Iterator[StoredScene]:
    """The scenes of a split with `imgs` (N, H, W, C) and, if the file has them, `masks` (N, E, H, W, 1).

    The first entity is the background. Objects without a pixel are not counted.

    Raises:
        DataError: if the file is damaged or of another layout; the message names the array.
    """
    with open_hdf5(path) as file:
        group = file.get(split)
        if not isinstance(group, h5py.Group):
            raise DataError(f"{path}: expected the group {split!r}, found none.")
        images = find_dataset(group, "imgs", "(N, H, W, C)", 4, "uif")
        masks = find_dataset(group, "masks", "(N, E, H, W, 1)", 5, "uif") if "masks" in group else None
        if masks is not None and (masks.shape[0], *masks.shape[2:]) != (*images.shape[:3], 1):
            raise DataError(f"{masks.name} of {path}: expected (N, E, H, W, 1) for {images.shape}, got {masks.shape}.")
        if masks is not None and masks.shape[1] > MAX_LABELS:
            raise DataError(f"{path}: /{split}/masks: expected at most {MAX_LABELS} entities, got {masks.shape[1]}.")
        for row in range(len(images)):
            labels = None if masks is None else labels_of_masks(read_rows(masks, row)[..., 0])
            yield StoredScene(_colours(images, row), labels, None if labels is None else count_objects(labels))


def _colours(images: h5py.Dataset, row: int) -> NDArray[np.uint8]:
    """A stored image of one, three or four channels as (H, W, 3) uint8."""
    image = read_rows(images, row)
    if image.shape[-1] not in (1, 3, 4):
        raise DataError(f"{images.file.filename}: {images.name}: expected 1, 3 or 4 channels, got {image.shape[-1]}.")
    _check_whole(image, 255, images, row)
    if image.dtype.kind == "f" and 0 < image.max() <= 1:
        raise DataError(
            f"{images.file.filename}: {images.name}: scene {row}: expected colours from 0 to 255, got floating-point "
            "ones from 0 to 1. Multiply them by 255."
        )
    colours = image[..., :3].astype(np.uint8)
    return np.broadcast_to(colours, (*colours.shape[:2], 3))


def _check_whole(values: NDArray, most: int, dataset: h5py.Dataset, row: int) -> None:
    whole = np.isfinite(values).all() and (values == np.floor(values)).all()
    if not whole or values.min() < 0 or values.max() > most:
        raise DataError(
            f"{dataset.file.filename}: {dataset.name}: scene {row}: expected whole numbers from 0 to {most}, got "
            "others."
        )
