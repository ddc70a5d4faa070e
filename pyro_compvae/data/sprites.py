"""Multi-object sprite scenes, which are made on the spot and are the default data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyro_compvae.data.made import make_scenes, visible_pixels
from pyro_compvae.data.scenes import SceneSet
from pyro_compvae.errors import ArgumentError

COLOURS = np.array(
    [
        (230, 25, 25),  # red
        (30, 200, 50),  # green
        (40, 70, 235),  # blue
        (245, 215, 30),  # yellow
        (215, 45, 215),  # magenta
        (40, 215, 225),  # cyan
    ],
    dtype=np.uint8,
)
EXPONENTS = {"diamond": 1.5, "disc": 2.0, "square": 3.0}
"""Exponents p of the shapes, which are superellipses |u|^p + |v|^p <= r^p. Whether a sharp corner between two pixels
were visible would be a matter of chance."""


@dataclass(frozen=True)
class SpriteConfig:
    """The look of sprite scenes. Lengths are fractions of the image side.

    image_size: the side of the square image in pixels.
    min_objects, max_objects: the range of the number of objects per scene, which is drawn uniformly.
    min_radius, max_radius: the range of an object's radius along the axes of the image, which is drawn uniformly.
    min_visible: the fraction of every object that stays visible at least behind the nearer ones.
    """

    image_size: int = 24
    min_objects: int = 2
    max_objects: int = 3
    min_radius: float = 0.21
    max_radius: float = 0.26
    min_visible: float = 0.75

    def __post_init__(self) -> None:
        if self.image_size < 16:
            raise ArgumentError(f"image_size: expected at least 16 pixels, got {self.image_size}")
        if not 1 <= self.min_objects <= self.max_objects:
            raise ArgumentError(
                f"expected 1 <= min_objects <= max_objects, got {self.min_objects} and {self.max_objects}"
            )
        if self.max_objects > len(COLOURS):
            raise ArgumentError(f"max_objects: expected at most {len(COLOURS)}, a colour each; got {self.max_objects}")
        if not 0 < self.min_radius <= self.max_radius < 0.5:
            raise ArgumentError(
                f"expected 0 < min_radius <= max_radius < 0.5, got {self.min_radius} and {self.max_radius}"
            )
        if not 0 < self.min_visible < 1:
            raise ArgumentError(f"min_visible: expected a fraction in (0, 1), got {self.min_visible}")


def make_sprites(split: str, num_scenes: int, seed: int = 0, config: SpriteConfig | None = None) -> SceneSet:
    """Make scenes of coloured shapes on black that may occlude one another, with exact masks.

    Shape, size and place of every object are independent, colours are distinct within a scene; scenes in which an
    object is hidden more than ``min_visible`` allows are drawn again. Labels are 1..N from the farthest to the nearest.

    The first n scenes are the same for every ``num_scenes`` >= n (rounded up to 1000).

    Args:
        split: "train", "validation" or "test".
        num_scenes: the number of scenes.
        seed: the seed of the whole data set; the same seed gives the same scenes.
        config: the sizes and counts.

    Raises:
        ValueError: for an unknown split or num_scenes < 1.

    >>> make_sprites("test", 320)[:2].image.shape
    torch.Size([2, 3, 24, 24])
    """
    config = config or SpriteConfig()
    wanted = f"min_visible of {config}"
    return make_scenes(lambda rng, n: _draw(rng, config, n), "sprite scenes", split, num_scenes, seed, wanted)


def _draw(rng: np.random.Generator, config: SpriteConfig, n: int) -> tuple[NDArray, NDArray, NDArray]:
    """Draw n scenes, and keep those in which every object is visible enough."""
    size, most = config.image_size, config.max_objects
    counts = rng.integers(config.min_objects, most + 1, n)
    radius = rng.uniform(config.min_radius, config.max_radius, (n, most))
    # The whole object lies within the image.
    centre = radius[..., None] + rng.random((n, most, 2)) * (1 - 2 * radius[..., None])
    shape = rng.integers(0, len(EXPONENTS), (n, most))
    # Colours are distinct within a scene, since two overlapping objects of one colour would have no border.
    colour = COLOURS[rng.random((n, len(COLOURS))).argsort(axis=1)[:, :most]]

    pixel = (np.arange(size) + 0.5) / size
    labels = np.zeros((n, size, size), np.uint8)
    images = np.zeros((n, 3, size, size), np.uint8)
    area = np.zeros((n, most))
    for j in range(most):
        dy = pixel[None, :, None] - centre[:, j, 0, None, None]
        dx = pixel[None, None, :] - centre[:, j, 1, None, None]
        inside = _inside(dx, dy, radius[:, j, None, None], shape[:, j, None, None])
        inside &= (j < counts)[:, None, None]
        area[:, j] = inside.sum((1, 2))
        labels[inside] = j + 1
        images = np.where(inside[:, None], colour[:, j, :, None, None], images)
    seen = visible_pixels(labels, most)
    exists = np.arange(most) < counts[:, None]
    visible = np.all(~exists | (seen >= np.maximum(config.min_visible * area, 1)), axis=1)
    return images[visible], labels[visible], counts[visible]


def _inside(u: NDArray, v: NDArray, radius: NDArray, shape: NDArray) -> NDArray:
    """Which points (u to the right, v down, from the centre) lie in the superellipse with this radius and exponent."""
    exponent = np.array(list(EXPONENTS.values()))[shape]
    return np.abs(u / radius) ** exponent + np.abs(v / radius) ** exponent <= 1
