"""Conversion of images of any shape and size to squares of one size."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from pyro_compvae.data.records import DataError, StoredScene

Crop = Literal["clevr", "centre"]
CLEVR_SIZE = (240, 320)
CLEVR_CROP = (slice(29, 221), slice(64, 256))
"""Rows and columns of CLEVR's images (height, width) that the literature since IODINE keeps, 192 × 192."""


def square(scene: StoredScene, crop: Crop = "centre") -> StoredScene:
    """Crop a scene that is not square: to the central square, or by CLEVR's usual crop.

    Raises:
        DataError: for CLEVR's crop of images that have another size.
    """
    height, width = scene.image.shape[-3:-1]
    if height == width:
        return scene
    if crop == "clevr":
        if (height, width) != CLEVR_SIZE:
            expected = " x ".join(map(str, CLEVR_SIZE))
            raise DataError(f"crop: expected images of CLEVR's {expected} pixels for its crop, got {height} x {width}.")
        rows, columns = CLEVR_CROP
    else:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        rows, columns = slice(top, top + side), slice(left, left + side)
    labels = None if scene.labels is None else scene.labels[..., rows, columns]
    return scene._replace(image=scene.image[..., rows, columns, :], labels=labels)


def resize(scene: StoredScene, size: int | None) -> StoredScene:
    """Resize square images to another size in pixels; None keeps their size.

    If the new size divides the old one, colours are averaged over blocks of pixels; otherwise they are interpolated
    linearly, with a wider kernel if the image gets smaller. The label is that of the nearest stored pixel (in an even
    block the one right below its centre), since labels have no average.

    Raises:
        DataError: if the images are not square, or the size is below one pixel.
    """
    height, width = scene.image.shape[-3:-1]
    if size is None or (height, width) == (size, size):
        return scene
    if size < 1 or height != width:
        raise DataError(
            f"image_size: expected a positive number of pixels, and square images to bring to it; got {size}, and "
            f"images of {height} x {width} pixels."
        )
    nearest = ((2 * np.arange(size) + 1) * height) // (2 * size)
    labels = None if scene.labels is None else scene.labels[..., nearest[:, None], nearest]
    return scene._replace(image=_resize_colours(scene.image, size), labels=labels)


def _resize_colours(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    *views, height, _, channels = image.shape
    factor, rest = divmod(height, size)
    if rest == 0:
        blocks = image.reshape(*views, size, factor, size, factor, channels)
        return np.rint(blocks.mean(axis=(-4, -2), dtype=np.float32)).astype(np.uint8)
    planes = torch.from_numpy(image.astype(np.float32)).reshape(-1, height, height, channels).movedim(-1, 1)
    resized = F.interpolate(planes, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    colours = resized.movedim(1, -1).round().clamp(0, 255).to(torch.uint8).numpy()
    return colours.reshape(*views, size, size, channels)
