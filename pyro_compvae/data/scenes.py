"""The scene record that every data set gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

SPLITS = {"train": 0, "validation": 1, "test": 2}
"""Splits are told apart by the random stream, so that no size of one changes the scenes of another."""


class DataError(ValueError):
    """A data set on disk is missing, or is not what its format promises."""


class Scene(NamedTuple):
    """One scene, or a batch of them with a leading dimension B; multi-view scenes have a dimension V.

    image:       ([B,] [V,] 3, H, W) float32, colours in [0, 1]
    labels:      ([B,] [V,] H, W) int64; 0 is the background, 1..N are the objects, the same in all views
    num_objects: ([B]) int64, objects in the scene (whether or not a pixel of them is visible)
    viewpoint:   ([B,] [V,] 3) float32, or None where the data have no cameras
    """

    image: Tensor
    labels: Tensor
    num_objects: Tensor
    viewpoint: Tensor | None

    def to(self, device: torch.device) -> Scene:
        """The same record on a device."""
        viewpoint = None if self.viewpoint is None else self.viewpoint.to(device)
        return Scene(self.image.to(device), self.labels.to(device), self.num_objects.to(device), viewpoint)

    def scenes(self, index: slice) -> Scene:
        """Some of the scenes of a batch."""
        viewpoint = None if self.viewpoint is None else self.viewpoint[index]
        return Scene(self.image[index], self.labels[index], self.num_objects[index], viewpoint)

    def view(self, index: int | slice) -> Scene:
        """One view (int) of a batch of multi-view scenes, as single images, or some of the views (slice).

        Raises:
            ValueError: if the scenes are single images.
        """
        if self.viewpoint is None or self.viewpoint.dim() != 3:
            raise ValueError(f"scene: expected several views (B, V, 3, H, W), got images {tuple(self.image.shape)}")
        return Scene(self.image[:, index], self.labels[:, index], self.num_objects, self.viewpoint[:, index])


@dataclass(frozen=True)
class SceneSet:
    """N scenes held in memory as bytes, of one image or of V views each; indexing gives float32 records.

    images:      (N, [V,] 3, H, W) uint8
    labels:      (N, [V,] H, W) uint8
    num_objects: (N,) int64
    viewpoints:  (N, [V,] 3) float32; single images may have None, views may not

    Raises:
        ValueError: if shapes or types are not those above.

    >>> images = torch.zeros(10, 3, 24, 24, dtype=torch.uint8)
    >>> labels = torch.zeros(10, 24, 24, dtype=torch.uint8)
    >>> scenes = SceneSet(images, labels, num_objects=torch.ones(10, dtype=torch.int64))
    >>> scenes[2:5].image.shape, scenes[0].image.dtype
    (torch.Size([3, 3, 24, 24]), torch.float32)
    >>> SceneSet(images.float(), labels, torch.ones(10))
    Traceback (most recent call last):
    ValueError: images: expected (N, 3, H, W) or (N, V, 3, H, W) uint8, got (10, 3, 24, 24) float32
    """

    images: Tensor
    labels: Tensor
    num_objects: Tensor
    viewpoints: Tensor | None = None

    def __post_init__(self) -> None:
        if self.images.ndim not in (4, 5) or self.images.shape[-3] != 3 or self.images.dtype != torch.uint8:
            raise ValueError(f"images: expected (N, 3, H, W) or (N, V, 3, H, W) uint8, got {_describe(self.images)}")
        *batch, _, height, width = self.images.shape  # N, or N and V
        if self.labels.shape != (*batch, height, width) or self.labels.dtype != torch.uint8:
            raise ValueError(f"labels: expected {(*batch, height, width)} uint8, got {_describe(self.labels)}")
        if self.num_objects.shape != (batch[0],):
            raise ValueError(f"num_objects: expected ({batch[0]},), got {_describe(self.num_objects)}")
        if self.viewpoints is None and self.num_views is not None:
            raise ValueError(
                f"viewpoints: expected {(*batch, 3)} for these {self.num_views} views of each scene, got None. "
                "Views without cameras are single images: give images (N, 3, H, W)."
            )
        if self.viewpoints is not None and self.viewpoints.shape != (*batch, 3):
            raise ValueError(f"viewpoints: expected {(*batch, 3)}, got {_describe(self.viewpoints)}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | slice | Tensor) -> Scene:
        """The record of one scene (int), or of a batch of them (slice or indices)."""
        return Scene(
            image=self.images[index].float() / 255,
            labels=self.labels[index].long(),
            num_objects=self.num_objects[index],
            viewpoint=None if self.viewpoints is None else self.viewpoints[index],
        )

    def to(self, device: torch.device) -> SceneSet:
        """The same set on a device. To a GPU its bytes travel from pinned memory, while the host goes on."""
        if device.type != "cuda":
            return self

        def send(tensor: Tensor) -> Tensor:
            return tensor.pin_memory().to(device, non_blocking=True)

        viewpoints = None if self.viewpoints is None else send(self.viewpoints)
        return SceneSet(send(self.images), send(self.labels), send(self.num_objects), viewpoints)

    def part(self, index: slice | Tensor) -> SceneSet:
        """Some of the scenes, as a set."""
        viewpoints = None if self.viewpoints is None else self.viewpoints[index]
        return SceneSet(self.images[index], self.labels[index], self.num_objects[index], viewpoints)

    def spread(self, num_scenes: int) -> SceneSet:
        """At most that many scenes, evenly spread over the set."""
        return self.part(torch.linspace(0, len(self) - 1, min(num_scenes, len(self))).long())

    def as_images(self) -> SceneSet:
        """The N * V views as scenes of one image, scene after scene and view after view; single images as they are."""
        if self.num_views is None or self.viewpoints is None:
            return self
        return SceneSet(
            images=self.images.flatten(0, 1),
            labels=self.labels.flatten(0, 1),
            num_objects=self.num_objects.repeat_interleave(self.num_views),
            viewpoints=self.viewpoints.flatten(0, 1),
        )

    def reorder_views(self, order: Tensor) -> SceneSet:
        """The same scenes with their views in another order: view v of scene n becomes order[n, v], (N, V)."""
        assert self.viewpoints is not None
        scene = torch.arange(len(self))[:, None]
        return SceneSet(
            self.images[scene, order], self.labels[scene, order], self.num_objects, self.viewpoints[scene, order]
        )

    @property
    def num_views(self) -> int | None:
        """V, or None for single images."""
        return self.images.shape[1] if self.images.ndim == 5 else None

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.images.shape[-2], self.images.shape[-1]

    @property
    def max_objects(self) -> int:
        """The most objects of any scene, background not counted."""
        return int(self.num_objects.max())


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
