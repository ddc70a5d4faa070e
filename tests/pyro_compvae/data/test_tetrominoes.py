"""Tetrominoes: the published images to the bit, and what is drawn."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from helpers.published import TETROMINOES, needs_published_images
from scipy.stats import chisquare

from pyro_compvae.data import make_tetrominoes, render_pieces
from pyro_compvae.data.tetrominoes import COLOURS, PIECES


def find_pieces(image: np.ndarray, labels: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Piece, row, column and colour of every label of an image (35, 35, 3)."""
    found = []
    for label in range(1, labels.max() + 1):
        rows, columns = np.nonzero(labels == label)
        top, left = rows.min(), columns.min()
        blocks = (labels == label)[top : rows.max() + 1 : 5, left : columns.max() + 1 : 5]
        piece = PIECES.index(tuple("".join(".#"[block] for block in line) for line in blocks.astype(int)))
        colour = (image[rows[0], columns[0]] > 0) == COLOURS
        found.append((piece, top, left, int(colour.all(1).argmax())))
    return found


@needs_published_images
def test_published_images_are_reproduced_without_an_error() -> None:
    published = np.load(TETROMINOES)
    pieces = [find_pieces(*scene) for scene in zip(published["image"], published["label"], strict=True)]
    images, labels = render_pieces(*np.moveaxis(np.array(pieces), -1, 0))
    assert len(images) == 10
    assert np.array_equal(images.transpose(0, 2, 3, 1), published["image"])
    assert np.array_equal(labels, published["label"])


def test_a_piece_drawn_by_hand() -> None:
    """A magenta T of four blocks, in the lower right corner, with its light from above."""
    first, middle, last = [191, 255, 255, 255, 223], [127, 159, 159, 159, 191], [95, 63, 63, 63, 127]
    block = np.array([first, middle, middle, middle, last])
    expected = np.zeros((3, 35, 35))
    for row, column in ((25, 20), (25, 25), (25, 30), (30, 25)):
        expected[0, row : row + 5, column : column + 5] = expected[2, row : row + 5, column : column + 5] = block
    piece = PIECES.index(("###", ".#."))
    images, labels = render_pieces(*(np.array([[index]]) for index in (piece, 25, 20, 4)))
    assert images.dtype == labels.dtype == np.uint8
    assert np.array_equal(images[0], expected)
    assert np.array_equal(labels[0], expected[0] > 0)


def test_pieces_are_all_that_four_blocks_can_form() -> None:
    """Every connected set of four cells, up to a shift."""
    forms = set()
    for cells in {frozenset(cells) for cells in product(product(range(4), range(4)), repeat=4) if len(set(cells)) == 4}:
        reached = {min(cells)}
        while more := {c for c in cells - reached if any(abs(c[0] - r) + abs(c[1] - s) == 1 for r, s in reached)}:
            reached |= more
        if reached == cells:
            top, left = min(row for row, _ in cells), min(column for _, column in cells)
            forms.add(frozenset((row - top, column - left) for row, column in cells))
    ours = {
        frozenset((row, column) for row, line in enumerate(piece) for column, block in enumerate(line) if block == "#")
        for piece in PIECES
    }
    assert len(PIECES) == len(ours) == 19
    assert ours == forms


def test_pieces_lie_apart_and_everything_is_drawn_as_said() -> None:
    scenes = make_tetrominoes("train", 2000)
    assert scenes.images.shape == (2000, 3, 35, 35)
    assert scenes.num_objects.eq(3).all()
    assert torch.stack([(scenes.labels == label).sum((1, 2)) for label in (1, 2, 3)]).eq(100).all()
    assert scenes.images.amax(1)[scenes.labels == 0].eq(0).all()
    images, labels = scenes.images.permute(0, 2, 3, 1).numpy(), scenes.labels.numpy()
    drawn = [find_pieces(image, label) for image, label in zip(images, labels, strict=True)]
    again, _ = render_pieces(*np.moveaxis(np.array(drawn), -1, 0))
    assert np.array_equal(again, scenes.images.numpy())
    # Colours do not decide whether pieces overlap, so they stay uniform.
    colours = Counter(colour for scene in drawn for *_, colour in scene)
    assert chisquare([colours[colour] for colour in range(6)]).pvalue > 1e-4
    assert {piece for scene in drawn for piece, *_ in scene} == set(range(19))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((19, 0, 0, 0), "piece: expected indices from 0 to 18, got 19 to 19"),
        ((0, 0, 0, 6), "colour: expected indices from 0 to 5, got 6 to 6"),
        ((0, 0, 16, 0), "column: expected pieces within the 35 × 35 pixels, got some beyond them"),
        ((1, -1, 0, 0), "row: expected pieces within"),
    ],
)
def test_bad_places_are_named(place: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_pieces(*(np.array([[index]]) for index in place))


def test_bad_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"of one shape \(N, P\), got \[\(1,\)"):
        render_pieces(*(np.zeros(1, int) for _ in range(4)))


def test_a_split_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="split: expected one of train, validation, test, got 'dev'"):
        make_tetrominoes("dev", 1)
