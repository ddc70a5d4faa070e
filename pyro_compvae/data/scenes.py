"""Sets of scenes in memory, which every data set provides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_compvae.checks import describe
from pyro_compvae.data.readers.resize import resize
from pyro_compvae.data.records import Scene, StoredScene, as_bytes, stack_scenes
from pyro_compvae.errors import ArgumentError

SPLITS = {"train": 0, "validation": 1, "test": 2}
"""The number of each split's random stream; with separate streams the size of one split never changes another."""

SPLIT_NAMES = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
"""The names that data sets of others give to the splits."""


@dataclass(frozen=True)
class SceneSet:
    """N scenes held in memory as bytes, of one image or of V views each; indexing gives float32 records.

    images:      (N, [V,] 3, H, W) uint8
    labels:      (N, [V,] H, W) uint8; None if the data have no masks
    num_objects: (N,) int64; None if the data have no masks
    viewpoints:  (N, [V,] 3) float32; single images may have None, views may not
    origin:      a phrase that says where the scenes are from, which results record
    stored_sizes: the sizes (H, W) of the images on disk, from which these were resized; empty if they are on none

    Raises:
        ValueError: if shapes or types are not those above.

    >>> images = torch.zeros(10, 3, 24, 24, dtype=torch.uint8)
    >>> labels = torch.zeros(10, 24, 24, dtype=torch.uint8)
    >>> scenes = SceneSet(images, labels, num_objects=torch.ones(10, dtype=torch.int64))
    >>> scenes[2:5].image.shape, scenes[0].image.dtype
    (torch.Size([3, 3, 24, 24]), torch.float32)
    >>> SceneSet(images, labels)
    Traceback (most recent call last):
    pyro_compvae.errors.ArgumentError: labels and num_objects: expected both, or None for both, got one of them
    """

    images: Tensor
    labels: Tensor | None = None
    num_objects: Tensor | None = None
    viewpoints: Tensor | None = None
    origin: str = ""
    stored_sizes: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.images.ndim not in (4, 5) or self.images.shape[-3] != 3 or self.images.dtype != torch.uint8:
            raise ArgumentError(f"images: expected (N, 3, H, W) or (N, V, 3, H, W) uint8, got {describe(self.images)}")
        *batch, _, height, width = self.images.shape  # N, or N and V
        if (self.labels is None) != (self.num_objects is None):
            raise ArgumentError("labels and num_objects: expected both, or None for both, got one of them")
        if self.labels is not None and (
            self.labels.shape != (*batch, height, width) or self.labels.dtype != torch.uint8
        ):
            raise ArgumentError(f"labels: expected {(*batch, height, width)} uint8, got {describe(self.labels)}")
        if self.num_objects is not None and self.num_objects.shape != (batch[0],):
            raise ArgumentError(f"num_objects: expected ({batch[0]},), got {describe(self.num_objects)}")
        if self.viewpoints is None and self.num_views is not None:
            raise ArgumentError(
                f"viewpoints: expected {(*batch, 3)} for these {self.num_views} views of each scene, got None. "
                "Views without cameras are single images: give images (N, 3, H, W)."
            )
        if self.viewpoints is not None and self.viewpoints.shape != (*batch, 3):
            raise ArgumentError(f"viewpoints: expected {(*batch, 3)}, got {describe(self.viewpoints)}")

    @classmethod
    def from_scenes(cls, scenes: Iterable[StoredScene], origin: str = "", image_size: int | None = None) -> SceneSet:
        """Collect scenes of one shape, or of any squares that are resized to `image_size` pixels; see `resize`.

        Raises:
            ValueError: if there are no scenes, or they differ in their fields or the shapes of these, or `stack_scenes`
                refuses their types.
        """
        sizes, resized = set(), []
        for scene in scenes:
            sizes.add(scene.image.shape[-3:-1])
            resized.append(resize(scene, image_size))
        arrays = {name: torch.from_numpy(values) for name, values in stack_scenes(resized).items()}
        arrays["images"] = arrays["images"].movedim(-1, -3).contiguous()
        return cls(**arrays, origin=origin, stored_sizes=tuple(sizes))

    @classmethod
    def from_arrays(cls, images: Tensor | NDArray, viewpoints: Tensor | NDArray | None = None) -> SceneSet:
        """A user's own images (N, 3, H, W), or (N, V, 3, H, W) of V views from viewpoints (N, V, 3), without masks.

        Args:
            images: the images as bytes, or as floats in [0, 1].
            viewpoints: the viewpoints of the views.

        Raises:
            ArgumentError: if shapes, types or colours are not those above.

        >>> import numpy as np
        >>> SceneSet.from_arrays(np.full((4, 3, 8, 8), 0.5)).images.unique()
        tensor([128], dtype=torch.uint8)
        >>> SceneSet.from_arrays(np.full((4, 3, 8, 8), 255.0))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        pyro_compvae.errors.ArgumentError: images: expected bytes, or floats in [0, 1], got float64 from 255 to 255. ...
        """
        images = as_bytes(torch.as_tensor(images))
        places = None if viewpoints is None else torch.as_tensor(viewpoints, dtype=torch.float32)
        return cls(images, viewpoints=places)

    def stored(self) -> Iterator[StoredScene]:
        """The scenes one by one, in the form of files."""
        for n in range(len(self)):
            yield StoredScene(
                self.images[n].movedim(-3, -1).cpu().numpy(),
                None if self.labels is None else self.labels[n].cpu().numpy(),
                None if self.num_objects is None else int(self.num_objects[n]),
                None if self.viewpoints is None else self.viewpoints[n].cpu().numpy(),
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | slice | Tensor) -> Scene:
        """The record of one scene (int), or of a batch of them (slice or indices)."""
        return Scene(
            image=self.images[index].float() / 255,
            labels=None if self.labels is None else self.labels[index].long(),
            num_objects=None if self.num_objects is None else self.num_objects[index],
            viewpoint=None if self.viewpoints is None else self.viewpoints[index],
        )

    def _map(self, **functions: Any) -> SceneSet:
        """Apply functions to fields by name; fields that are None stay None."""
        fields = {name: getattr(self, name) for name in functions}
        return replace(self, **{name: functions[name](field) for name, field in fields.items() if field is not None})

    def _map_all(self, function: Any) -> SceneSet:
        return self._map(images=function, labels=function, num_objects=function, viewpoints=function)

    def to(self, device: torch.device, pinned: bool = True) -> SceneSet:
        """The same set on a device.

        Args:
            device: the device.
            pinned: whether bytes are copied to a CUDA GPU from pinned memory, so that the host need not wait; for
                minibatches.
        """
        if device.type == self.images.device.type == "cpu":
            return self
        if pinned and device.type == "cuda" and self.images.device.type == "cpu":
            return self._map_all(lambda field: field.pin_memory().to(device, non_blocking=True))
        return self._map_all(lambda field: field.to(device))

    def part(self, index: slice | Tensor) -> SceneSet:
        """A set of some of the scenes."""
        if isinstance(index, Tensor):
            device = self.images.device
            index = (index.pin_memory() if device.type == "cuda" else index).to(device, non_blocking=True)
        return self._map_all(lambda field: field[index])

    def spread(self, num_scenes: int) -> SceneSet:
        """At most that many scenes, evenly spread over the set."""
        number = min(num_scenes, len(self))
        return self.part(torch.linspace(0, len(self) - 1, number, dtype=torch.float32, device="cpu").long())

    def without_masks(self) -> SceneSet:
        """The same scenes without ground truth."""
        return replace(self, labels=None, num_objects=None)

    def as_images(self) -> SceneSet:
        """The N * V views as scenes of one image, scene after scene and view after view; single images unchanged."""
        num_views = self.num_views
        if num_views is None:
            return self

        def flat(field: Tensor) -> Tensor:
            return field.flatten(0, 1)

        return self._map(
            images=flat, labels=flat, num_objects=lambda count: count.repeat_interleave(num_views), viewpoints=flat
        )

    def reorder_views(self, order: Tensor) -> SceneSet:
        """The same scenes with their views in another order: view v of scene n becomes order[n, v], (N, V)."""
        scene = torch.arange(len(self))[:, None]

        def reorder(field: Tensor) -> Tensor:
            return field[scene, order]

        return self._map(images=reorder, labels=reorder, viewpoints=reorder)

    @property
    def num_views(self) -> int | None:
        """V, or None for single images."""
        return self.images.shape[1] if self.images.ndim == 5 else None

    @property
    def num_bytes(self) -> int:
        """How many bytes all fields take in memory."""
        fields = (self.images, self.labels, self.num_objects, self.viewpoints)
        return sum(field.nbytes for field in fields if field is not None)

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.images.shape[-2], self.images.shape[-1]

    @cached_property
    def digests(self) -> dict[str, str]:
        """A hash of every field that is not None, by name. Results record those of the fields that they depend on."""
        fields = {name: getattr(self, name) for name in ("images", "labels", "num_objects", "viewpoints")}
        return {name: _digest(field) for name, field in fields.items() if field is not None}

    @property
    def seen(self) -> dict[str, str]:
        """The `digests` of what models see, which is all but the ground truth."""
        return {name: self.digests[name] for name in ("images", "viewpoints") if name in self.digests}

    @property
    def cameras(self) -> dict[str, str]:
        """The `digests` of the viewpoints, if there are any."""
        return {name: digest for name, digest in self.digests.items() if name == "viewpoints"}

    @property
    def max_objects(self) -> int | None:
        """The largest number of objects in a scene, without the background; None without masks."""
        return None if self.num_objects is None else int(self.num_objects.max())


def _digest(field: Tensor) -> str:
    content = hashlib.sha256(f"{tuple(field.shape)} {field.dtype}".encode())
    content.update(field.cpu().contiguous().numpy().data)
    return content.hexdigest()[:16]
