"""Scenes like multi-dSprites: masks, colours, sizes, seeds."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from pyro_compvae.data import make_multi_dsprites
from pyro_compvae.data.multi_dsprites import _on_grey, _sprites


@pytest.mark.parametrize(("coloured", "numbers"), [(False, {2, 3, 4, 5}), (True, {1, 2, 3, 4})])
def test_masks_are_exact_and_numbers_as_published(coloured: bool, numbers: set[int]) -> None:
    scenes = make_multi_dsprites("test", 300, coloured_background=coloured)
    assert set(scenes.num_objects.tolist()) == numbers
    greys = []
    for image, labels, count in zip(scenes.images, scenes.labels, scenes.num_objects, strict=True):
        assert labels.unique().tolist() == list(range(int(count) + 1))
        for label in range(int(count) + 1):
            colours = image[:, labels == label].unique(dim=1)
            assert colours.shape[1] == 1
            greys += [colours.unique().numel() == 1] if label == 0 else []
    assert all(greys) != coloured


def test_sprites_have_the_areas_of_their_shapes_and_lie_within_their_square() -> None:
    """At scale 1 in units of the radius: a square of side √2, an ellipse of axes 1 and 1/2; areas go by scale²."""
    sprites = _sprites()
    areas = sprites.sum((3, 4)).mean(2) / 16**2
    np.testing.assert_allclose(areas[:2, -1], [2, np.pi / 2], rtol=0.03)
    np.testing.assert_allclose(areas / areas[:, -1:], np.linspace(0.5, 1, 6)[None] ** 2 * np.ones((3, 1)), rtol=0.05)
    # A heart of a disc's radius that is turned around its centre stays within the disc.
    y, x = np.mgrid[-16:17, -16:17]
    assert not sprites[..., y**2 + x**2 > 16**2].any()


def test_upright_hearts_have_two_lobes_above_and_one_tip_below() -> None:
    heart = _sprites()[2, -1, 0]
    rows = np.flatnonzero(heart.any(1))
    runs = [np.abs(np.diff(np.pad(heart[row].astype(int), 1))).sum() // 2 for row in rows]
    assert runs[0] == 2
    assert heart[rows[-1]].sum() < 6
    assert np.array_equal(heart, heart[:, ::-1])


def test_colours_on_grey_are_those_of_hsv() -> None:
    colours = _on_grey(np.random.default_rng(0), 50, 3)
    assert colours.dtype == np.uint8
    assert (colours[:, 0] == colours[:, 0, :1]).all()
    for colour in colours[:, 1:].reshape(-1, 3) / 255:
        _, saturation, value = colorsys.rgb_to_hsv(*colour)
        assert 0.48 < saturation <= 1
        assert 0.49 < value <= 1
    hues = [colorsys.rgb_to_hsv(*colour)[0] for colour in colours[:, 1:].reshape(-1, 3) / 255]
    assert np.histogram(hues, bins=6, range=(0, 1))[0].min() > 10
