"""Multi-dSprites by its published description, made on the spot: a re-creation, not the published files."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from pyro_compvae.data.made import make_scenes, stamp, visible_pixels
from pyro_compvae.data.scenes import SceneSet

SIDE = 64
"""The side of the images in pixels."""

RADIUS = 16
"""The largest distance in pixels of a sprite's rim from its centre; at all of its places a sprite lies in the image."""

NUM_SCALES, NUM_ANGLES, NUM_PLACES = 6, 40, 32
"""Numbers of scales, of orientations, and of places along either axis of the image, which are those of dSprites."""

SCALES = np.linspace(0.5, 1, NUM_SCALES)
ANGLES = 2 * np.pi / NUM_ANGLES * np.arange(NUM_ANGLES)


def make_multi_dsprites(split: str, num_scenes: int, seed: int = 0, *, coloured_background: bool = False) -> SceneSet:
    """Make scenes of squares, ellipses and hearts that may hide parts of one another, 64×64 pixels.

    They follow the description of multi_object_datasets (Kabra et al. 2019), which has 2 to 5 sprites of random HSV
    colours on a random grey, or 1 to 4 sprites with all colours random in RGB, and of dSprites (Matthey et al. 2017),
    which has six scales from 0.5 to 1, 40 orientations and 32 × 32 places. All of these are drawn independently and
    uniformly here. What is not published, and therefore chosen: outlines and sizes of the shapes, saturations and
    values, which are at least one half, and that scenes in which a sprite is hidden are drawn again.

    Labels are 1..N from the farthest to the nearest. The first n scenes are the same for every ``num_scenes`` >= n
    (rounded up to 1000).

    Args:
        split: "train", "validation" or "test".
        num_scenes: the number of scenes.
        seed: the seed of the whole data set; the same seed gives the same scenes.
        coloured_background: whether the background is coloured, instead of grey.

    Raises:
        ArgumentError: for an unknown split or num_scenes < 1.

    >>> make_multi_dsprites("test", 320)[:2].image.shape
    torch.Size([2, 3, 64, 64])
    """
    what = f"scenes like multi-dSprites on {'colour' if coloured_background else 'grey'}"
    return make_scenes(lambda rng, n: _draw(rng, n, coloured_background), what, split, num_scenes, seed)


def _draw(rng: np.random.Generator, n: int, coloured_background: bool) -> tuple[NDArray, NDArray, NDArray]:
    """Draw n scenes, and keep those in which every sprite is visible."""
    least, most = (1, 4) if coloured_background else (2, 5)
    counts = rng.integers(least, most + 1, n)
    sprites = _sprites().reshape(-1, 2 * RADIUS + 1, 2 * RADIUS + 1)
    sprite = rng.integers(0, len(sprites), (n, most))
    row, column = rng.integers(0, NUM_PLACES, (2, n, most))
    colours = _any_colours(rng, n, most) if coloured_background else _on_grey(rng, n, most)

    exists = np.arange(most) < counts[:, None]
    labels = np.zeros((n, SIDE, SIDE), np.uint8)
    for j in range(most):
        stamp(labels, sprites[sprite[:, j]] & exists[:, j, None, None], row[:, j], column[:, j], j + 1)
    images = colours[np.arange(n)[:, None, None], labels].transpose(0, 3, 1, 2)
    wanted = (~exists | (visible_pixels(labels, most) > 0)).all(1)
    return images[wanted], labels[wanted], counts[wanted]


@cache
def _sprites() -> NDArray:
    """Which pixels around its centre a sprite covers, (3, 6, 40, 33, 33), for shapes, scales and orientations."""
    pixel = np.arange(-RADIUS, RADIUS + 1) / RADIUS
    down, right = np.meshgrid(pixel, pixel, indexing="ij")
    scale, cosine, sine = SCALES[:, None, None, None], *(f(ANGLES)[:, None, None] for f in (np.cos, np.sin))
    u, v = (cosine * right + sine * down) / scale, (cosine * down - sine * right) / scale
    square = np.maximum(np.abs(u), np.abs(v)) <= 0.5**0.5
    ellipse = u**2 + (2 * v) ** 2 <= 1
    # The curve (x² + y² − 1)³ + x² y³ = 0 is a heart that stands upright, since y grows downwards.
    x, y = 1.36 * u, 1.36 * v - 0.1
    heart = (x**2 + y**2 - 1) ** 3 + x**2 * y**3 <= 0
    return np.stack((square, ellipse, heart))


def _any_colours(rng: np.random.Generator, n: int, most: int) -> NDArray:
    """Colours of background and sprites in bytes, (n, 1 + most, 3), uniform in RGB."""
    return rng.integers(0, 256, (n, 1 + most, 3), dtype=np.uint8)


def _on_grey(rng: np.random.Generator, n: int, most: int) -> NDArray:
    """A grey for the background and colours for the sprites in bytes, (n, 1 + most, 3), from HSV (Smith 1978)."""
    grey = rng.integers(0, 256, (n, 1, 1)).repeat(3, axis=2)
    hue = 6 * rng.random((n, most, 1))
    saturation, value = rng.uniform(0.5, 1, (2, n, most, 1))
    # A channel is as bright as the value, less the chroma times its distance from the hue.
    distance = np.clip(np.abs((hue + np.array([0, 4, 2])) % 6 - 3), 1, 2)
    colours = 255 * value * (1 - saturation * (2 - distance))
    return np.concatenate((grey, colours.round()), axis=1).astype(np.uint8)
