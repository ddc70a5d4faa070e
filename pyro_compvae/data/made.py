"""Scenes that are made on the spot: random streams, rejection of scenes that are not wanted, and stamps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_compvae.checks import check_counts, check_seed
from pyro_compvae.data.scenes import SPLITS, SceneSet
from pyro_compvae.errors import ArgumentError

CHUNK = 1000
"""Number of scenes that are drawn together."""

MAX_ROUNDS = 100
"""The number of rounds of `CHUNK` scenes after which too few were wanted."""

Draw = Callable[[np.random.Generator, int], tuple[NDArray, NDArray, NDArray]]
"""A function that draws n scenes and returns the m <= n of them that are wanted: images (m, 3, H, W) and labels
(m, H, W) in bytes, and their numbers of objects (m,)."""


def make_scenes(draw: Draw, what: str, split: str, num_scenes: int, seed: int, wanted: str = "") -> SceneSet:
    """Draw scenes until there are enough.

    The first n scenes are the same for every ``num_scenes`` >= n (rounded up to 1000).

    Args:
        draw: a function that draws scenes.
        what: the name of the scenes, for the origin of the set.
        split: "train", "validation" or "test".
        num_scenes: the number of scenes.
        seed: the seed of the whole data set; the same seed gives the same scenes.
        wanted: the settings that decide which scenes are wanted, for the message if too few are.

    Raises:
        ArgumentError: for an unknown split, num_scenes < 1, or if hardly any scene is wanted.
    """
    if split not in SPLITS:
        raise ArgumentError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    check_counts(num_scenes=num_scenes)
    check_seed(seed)
    rng = np.random.default_rng((seed, SPLITS[split]))
    chunks = [_make_chunk(rng, draw, wanted or what) for _ in range(-(-num_scenes // CHUNK))]
    images, labels, counts = (torch.from_numpy(np.concatenate(part)[:num_scenes]) for part in zip(*chunks, strict=True))
    origin = f"{num_scenes:,} {what} made on the spot, {split} stream of seed {seed}"
    return SceneSet(images, labels, counts, origin=origin)


def _make_chunk(rng: np.random.Generator, draw: Draw, wanted: str) -> list[NDArray]:
    """Images, labels and counts of CHUNK scenes."""
    rounds: list[tuple[NDArray, ...]] = []
    missing = CHUNK
    while missing > 0:
        if len(rounds) == MAX_ROUNDS:
            raise ArgumentError(f"{wanted}: expected settings that scenes can satisfy, found too few scenes that do")
        rounds.append(draw(rng, CHUNK))
        missing -= len(rounds[-1][0])
    # Channels come first in memory too, as in files of scenes; digests would copy all images otherwise.
    return [np.ascontiguousarray(np.concatenate(part)[:CHUNK]) for part in zip(*rounds, strict=True)]


def visible_pixels(labels: NDArray, num_labels: int) -> NDArray:
    """The number of pixels of each of the labels 1..num_labels in label maps (N, H, W); (N, num_labels)."""
    return np.stack([(labels == label).sum((1, 2)) for label in range(1, num_labels + 1)], axis=1)


def stamp(canvas: NDArray, stamps: NDArray, row: NDArray, column: NDArray, values: NDArray | int) -> None:
    """Write values where stamps are not zero, in place.

    Args:
        canvas: (N, H, W).
        stamps: (N, h, w), one for every canvas, which must lie within it.
        row, column: the pixels of the upper left corners of the stamps, (N,).
        values: what to write, (N, h, w) or one number.
    """
    n, rows, columns = (np.arange(size) for size in stamps.shape)
    place = (n[:, None, None], row[:, None, None] + rows[:, None], column[:, None, None] + columns)
    canvas[place] = np.where(stamps, values, canvas[place])
