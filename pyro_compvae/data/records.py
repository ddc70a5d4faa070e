"""The record of one scene, in the form of files, and in the form that models and metrics take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_compvae.errors import ArgumentError, CompvaeError

MAX_LABELS = 256
"""Number of different labels, which are bytes: the background and at most 255 objects."""


class DataError(CompvaeError, ValueError):
    """A data set on disk is missing, or does not conform to its format."""


class StoredScene(NamedTuple):
    """One scene of one image or of V views, in the form of files.

    image:       ([V,] H, W, 3) uint8
    labels:      ([V,] H, W) uint8, where 0 is the background; None if the data have no masks
    num_objects: the number of objects in the scene; None if the data have no masks
    viewpoints:  (V, 3) float32; None for single images
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8] | None = None
    num_objects: int | None = None
    viewpoints: NDArray[np.float32] | None = None


ARRAYS = {"images": np.uint8, "labels": np.uint8, "num_objects": np.int64, "viewpoints": np.float32}
"""The fields of `StoredScene` for many scenes, and their types."""


def stack_scenes(scenes: Sequence[StoredScene]) -> dict[str, NDArray]:
    """Stack the fields of scenes with a leading dimension N, in the types of ARRAYS; fields that none has are left out.

    Raises:
        ValueError: if there are no scenes, or they differ in their fields or the shapes of these.
    """
    if not scenes:
        raise ArgumentError("scenes: expected one scene or more, got none")
    arrays = {}
    for (name, dtype), values in zip(ARRAYS.items(), zip(*scenes, strict=True), strict=True):
        given = [value for value in values if value is not None]
        if 0 < len(given) < len(values):
            raise ArgumentError(f"{name}: expected the same of all scenes, got {len(values) - len(given)} without")
        shapes = sorted({np.shape(value) for value in given})
        if len(shapes) > 1:
            raise ArgumentError(f"{name}: expected one shape of all scenes, got {', '.join(map(str, shapes))}")
        if given:
            arrays[name] = np.ascontiguousarray(np.stack(given), dtype)
    return arrays


class Scene(NamedTuple):
    """One scene, or a batch of them with a leading dimension B; multi-view scenes have a dimension V.

    image:       ([B,] [V,] 3, H, W) float32, colours in [0, 1]
    labels:      ([B,] [V,] H, W) int64; 0 is the background, 1..N are the objects, the same in all views; None
        if the data have no masks
    num_objects: ([B]) int64, objects in the scene, whether or not a pixel of them is visible; None without masks
    viewpoint:   ([B,] [V,] 3) float32, or None if the data have no cameras
    """

    image: Tensor
    labels: Tensor | None
    num_objects: Tensor | None
    viewpoint: Tensor | None

    def to(self, device: torch.device) -> Scene:
        """The same record on a device."""
        return Scene(*(None if field is None else field.to(device) for field in self))  # type: ignore[arg-type]

    def scenes(self, index: slice) -> Scene:
        """A slice of the scenes of a batch."""
        return Scene(*(None if field is None else field[index] for field in self))  # type: ignore[arg-type]

    def view(self, index: int | slice) -> Scene:
        """One view (int) of a batch of multi-view scenes, as single images, or a slice of the views.

        Raises:
            ValueError: if the scenes are single images.
        """
        if self.viewpoint is None or self.viewpoint.dim() != 3:
            raise ArgumentError(f"scene: expected several views (B, V, 3, H, W), got images {tuple(self.image.shape)}")
        labels = None if self.labels is None else self.labels[:, index]
        return Scene(self.image[:, index], labels, self.num_objects, self.viewpoint[:, index])
