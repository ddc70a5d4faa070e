"""Tetrominoes, the smallest benchmark of the field, made on the spot: images are the published ones to the bit."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pyro_compvae.data.made import make_scenes, stamp
from pyro_compvae.data.scenes import SceneSet
from pyro_compvae.errors import ArgumentError

SIDE = 35
"""The side of the images in pixels."""

NUM_PIECES = 3
"""The number of pieces in an image."""

COLOURS = np.array([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1)], dtype=np.uint8)
"""Red, green, blue, yellow, magenta and cyan: which channels of a piece are lit."""

BLOCK = np.array(
    [[191, 255, 255, 255, 223], *3 * [[127, 159, 159, 159, 191]], [95, 63, 63, 63, 127]],
    dtype=np.uint8,
)
"""The brightness of a block of a piece, (5, 5), as if light came from above."""

PIECES = (
    ("####",),
    ("#", "#", "#", "#"),
    ("##", "##"),
    ("###", ".#."),
    (".#.", "###"),
    ("#.", "##", "#."),
    (".#", "##", ".#"),
    (".##", "##."),
    ("#.", "##", ".#"),
    ("##.", ".##"),
    (".#", "##", "#."),
    ("###", "#.."),
    ("..#", "###"),
    ("#.", "#.", "##"),
    ("##", ".#", ".#"),
    ("###", "..#"),
    ("#..", "###"),
    (".#", ".#", "##"),
    ("##", "#.", "#."),
)
"""The 19 pieces of four blocks, one for every orientation."""

_REACH = 4 * len(BLOCK)


def _shades(piece: tuple[str, ...]) -> NDArray:
    """The brightness of a piece, (20, 20); 0 where it has no block."""
    blocks = np.zeros((4, 4), np.uint8)
    for row, line in enumerate(piece):
        blocks[row, : len(line)] = [character == "#" for character in line]
    return np.kron(blocks, BLOCK)


SHADES = np.stack([_shades(piece) for piece in PIECES])
"""The brightness of every piece, (19, 20, 20)."""

SIZES = len(BLOCK) * np.array([(len(piece), len(piece[0])) for piece in PIECES])
"""Height and width of every piece in pixels, (19, 2)."""


def render_pieces(piece: NDArray, row: NDArray, column: NDArray, colour: NDArray) -> tuple[NDArray, NDArray]:
    """Draw pieces on black, later ones in front of earlier ones.

    Args:
        piece: indices of `PIECES`, (N, P).
        row, column: the pixels of the upper left corners of the pieces' bounding boxes, (N, P).
        colour: indices of `COLOURS`, (N, P).

    Returns:
        images (N, 3, 35, 35) and labels (N, 35, 35) in bytes; piece j has label j + 1, and the background 0.

    Raises:
        ArgumentError: if a piece, a colour or a place does not exist.

    >>> images, labels = render_pieces(*(np.array([[index]]) for index in (2, 0, 0, 3)))  # a yellow square
    >>> images[0, :, 5, 0], int((labels == 1).sum())
    (array([191, 191,   0], dtype=uint8), 100)
    """
    _check(piece, row, column, colour)
    # Pieces are stamped along with what is empty around them, which may reach beyond the image.
    labels, brightness = np.zeros((2, len(piece), SIDE + _REACH, SIDE + _REACH), np.uint8)
    for j in range(piece.shape[1]):
        shades = SHADES[piece[:, j]]
        stamp(labels, shades, row[:, j], column[:, j], j + 1)
        stamp(brightness, shades, row[:, j], column[:, j], shades)
    labels, brightness = labels[:, :SIDE, :SIDE], brightness[:, :SIDE, :SIDE]
    lit = np.concatenate((np.zeros((len(piece), 1, 3), np.uint8), COLOURS[colour]), axis=1)
    images = lit[np.arange(len(piece))[:, None, None], labels] * brightness[..., None]
    return images.transpose(0, 3, 1, 2), labels


def make_tetrominoes(split: str, num_scenes: int, seed: int = 0) -> SceneSet:
    """Make scenes of three pieces that do not overlap, 35×35 pixels, as in multi_object_datasets (Kabra et al. 2019).

    Blocks, shades and colours are those of the published images, which `render_pieces` reproduces without an error. It
    is not published how pieces are drawn, nor which 17 of the 19 there are. Here all 19 and the six colours are equally
    likely and independent, and so are all places in which a piece lies within the image; scenes in which pieces overlap
    are drawn again.

    The first n scenes are the same for every ``num_scenes`` >= n (rounded up to 1000).

    Args:
        split: "train", "validation" or "test".
        num_scenes: the number of scenes.
        seed: the seed of the whole data set; the same seed gives the same scenes.

    Raises:
        ArgumentError: for an unknown split or num_scenes < 1.

    >>> make_tetrominoes("test", 320)[:2].image.shape
    torch.Size([2, 3, 35, 35])
    """
    return make_scenes(_draw, "scenes of Tetrominoes", split, num_scenes, seed)


def _draw(rng: np.random.Generator, n: int) -> tuple[NDArray, NDArray, NDArray]:
    """Draw n scenes, and keep those in which no piece hides another."""
    piece = rng.integers(0, len(PIECES), (n, NUM_PIECES))
    corner = rng.integers(0, SIDE - SIZES[piece] + 1)
    colour = rng.integers(0, len(COLOURS), (n, NUM_PIECES))
    apart = np.ones(n, bool)
    for i, j in combinations(range(NUM_PIECES), 2):
        step = corner[:, j] - corner[:, i]
        is_far = (np.abs(step) >= _REACH).any(-1)
        row, column = np.clip(step, 1 - _REACH, _REACH - 1).T
        apart &= is_far | ~_overlaps()[piece[:, i], piece[:, j], row, column]
    places = (array[apart] for array in (piece, corner[..., 0], corner[..., 1], colour))
    return *render_pieces(*places), np.full(int(apart.sum()), NUM_PIECES)


@cache
def _overlaps() -> NDArray:
    """Whether two pieces overlap, (19, 19, 39, 39), for every step from the first one's corner to the second one's.

    Steps are from -19 to 19; negative ones count from the end.
    """
    covered = np.fft.rfft2(SHADES > 0, (2 * _REACH - 1, 2 * _REACH - 1))
    common = np.fft.irfft2(covered[:, None] * covered.conj(), (2 * _REACH - 1, 2 * _REACH - 1))
    return common > 0.5


def _check(piece: NDArray, row: NDArray, column: NDArray, colour: NDArray) -> None:
    if not piece.shape == row.shape == column.shape == colour.shape or piece.ndim != 2:
        shapes = [array.shape for array in (piece, row, column, colour)]
        raise ArgumentError(f"expected piece, row, column and colour of one shape (N, P), got {shapes}")
    for name, index, most in (("piece", piece, len(PIECES)), ("colour", colour, len(COLOURS))):
        if ((index < 0) | (index >= most)).any():
            raise ArgumentError(f"{name}: expected indices from 0 to {most - 1}, got {index.min()} to {index.max()}")
    for name, corner, size in (("row", row, SIZES[piece, 0]), ("column", column, SIZES[piece, 1])):
        if ((corner < 0) | (corner + size > SIDE)).any():
            raise ArgumentError(f"{name}: expected pieces within the {SIDE} × {SIDE} pixels, got some beyond them")
