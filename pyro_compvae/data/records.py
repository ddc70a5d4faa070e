"""The record of one scene, in the form of files, and in the form that models and metrics take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from pyro_compvae.checks import name_of
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
        ValueError: if there are no scenes, they differ in their fields or the shapes of these, images are not of bytes,
            or labels and counts are not whole numbers that fit their types.
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
            arrays[name] = _exactly(name, np.stack(given), dtype)
    return arrays


def _exactly(name: str, values: NDArray, dtype: Any) -> NDArray:
    """The values in another type, unless that would change them; viewpoints may lose digits."""
    with np.errstate(invalid="ignore"):
        found = np.ascontiguousarray(values, dtype)
    if name == "images" and values.dtype != dtype:
        raise ArgumentError(
            f"images: expected bytes from 0 to 255, got {values.dtype} from {values.min():g} to {values.max():g}"
        )
    if name in ("labels", "num_objects") and not (found == values).all():
        kind = np.iinfo(dtype)
        raise ArgumentError(
            f"{name}: expected whole numbers from {kind.min} to {kind.max}, got {values.dtype} from "
            f"{values.min():g} to {values.max():g}"
        )
    return found


def as_bytes(images: Tensor) -> Tensor:
    """Images of bytes as they are, and of floats in [0, 1] as bytes.

    Raises:
        ArgumentError: for other images, which the message describes.
    """
    if images.dtype == torch.uint8 or not images.numel():
        return images
    low, high = (float(value) for value in images.aminmax())
    if images.is_floating_point() and low >= 0 and high <= 1:  # NaN fails both comparisons
        return (255 * images).round().to(torch.uint8)
    advice = ""
    if low >= 0 and high <= 255:
        advice = " Divide them by 255." if images.is_floating_point() else " Convert them to uint8."
    raise ArgumentError(
        f"images: expected bytes, or floats in [0, 1], got {name_of(images.dtype)} from {low:g} to {high:g}.{advice}"
    )


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


def _batch(scenes: Sequence[Scene], *, collate_fn_map: object = None) -> Scene:
    """A batch of the records of single scenes; what none of them has stays None."""
    fields = zip(*scenes, strict=True)
    return Scene(*(None if values[0] is None else torch.stack(values) for values in fields))  # type: ignore[arg-type]


# A `torch.utils.data.DataLoader` refuses None by itself; this is its documented way to know a type of records.
default_collate_fn_map[Scene] = _batch
