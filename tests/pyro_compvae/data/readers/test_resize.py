"""Crops of images, and resizing."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pyro_compvae.data.readers.resize import resize, square
from pyro_compvae.data.records import DataError, StoredScene


def scene(height: int, width: int, *views: int) -> StoredScene:
    """A scene in which every pixel encodes its row (red) and column (green, and the label)."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    image = np.stack([rows, columns, np.full_like(rows, 7)], axis=-1)
    return StoredScene(
        np.broadcast_to(image, (*views, height, width, 3)), np.broadcast_to(columns, (*views, height, width)), 3
    )


def corners(image: NDArray) -> list[list[int]]:
    return [image[..., 0, 0, :2].tolist(), image[..., -1, -1, :2].tolist()]


def test_clevr_gets_the_usual_crop() -> None:
    cropped = square(scene(240, 320), "clevr")
    assert cropped.image.shape == (192, 192, 3)
    assert corners(cropped.image) == [[29, 64], [220, 255]]
    assert cropped.labels is not None
    assert (cropped.labels[0, 0], cropped.labels[-1, -1]) == (64, 255)


def test_clevrs_crop_is_for_clevr() -> None:
    """A photograph of the same size keeps its centre, and images of another size have no such crop."""
    assert corners(square(scene(240, 320)).image) == [[0, 40], [239, 279 - 256]], "bytes count up to 255"
    with pytest.raises(DataError, match=r"crop: expected images of CLEVR's 240 x 320 pixels for its crop, got 6 x 10"):
        square(scene(6, 10), "clevr")


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(6, 10, [[0, 2], [5, 7]]), (9, 4, [[2, 0], [5, 3]]), (5, 5, [[0, 0], [4, 4]])]
)
def test_others_keep_the_central_square(height: int, width: int, expected: list) -> None:
    assert corners(square(scene(height, width)).image) == expected
    assert square(scene(height, width, 2)).image.shape == (2, *[min(height, width)] * 2, 3)


def test_a_divisor_averages_blocks() -> None:
    small = resize(scene(12, 12, 2), 4)
    assert small.image.shape == (2, 4, 4, 3)
    assert corners(small.image[1]) == [[1, 1], [10, 10]]
    assert small.labels is not None
    assert small.labels[1, 0].tolist() == [1, 4, 7, 10]


@pytest.mark.parametrize("size", [5, 9, 18])
def test_any_other_size_interpolates(size: int) -> None:
    """A ramp stays a ramp between the same ends, except for rounding and the borders."""
    resized = resize(scene(12, 12), size)
    centres = (np.arange(size) + 0.5) * 12 / size - 0.5
    assert np.abs(resized.image[1:-1, 2, 0] - centres[1:-1]).max() <= 0.8
    assert (resized.image[..., 2] == 7).all()
    assert resized.labels is not None
    assert np.abs(resized.labels[0] - centres).max() <= 0.5 + 1e-6


def test_what_cannot_be_resized() -> None:
    with pytest.raises(
        DataError, match=r"image_size: expected a positive number .* got -1, and images of 4 x 4 pixels"
    ):
        resize(scene(4, 4), -1)
    with pytest.raises(DataError, match=r"square images to bring to it; got 2, and images of 4 x 6 pixels"):
        resize(scene(4, 6), 2)
    unchanged = scene(4, 6)
    assert resize(unchanged, None) is unchanged
