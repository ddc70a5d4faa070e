"""The sprite generator: exact masks, occlusion, splits and seeds."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_compvae.data import SpriteConfig, make_sprites
from pyro_compvae.data.sprites import COLOURS


def test_the_record() -> None:
    scenes = make_sprites("train", 100)
    assert len(scenes) == 100
    assert scenes.image_size == (24, 24)
    batch = scenes[torch.tensor([3, 1])]
    assert batch.image.shape == (2, 3, 24, 24)
    assert batch.image.dtype == torch.float32
    assert batch.image.min() == 0
    assert 0.5 < batch.image.max() <= 1
    assert batch.labels.shape == (2, 24, 24)
    assert batch.labels.dtype == torch.int64
    assert batch.viewpoint is None
    assert torch.equal(scenes[3].image, batch.image[0])
    assert scenes.max_objects == 3


def test_masks_are_exact() -> None:
    """Every label has one colour of the palette, there are as many labels as objects, and the rest is black."""
    scenes = make_sprites("test", 200)
    palette = {tuple(colour) for colour in COLOURS.tolist()}
    for image, labels, count in zip(scenes.images, scenes.labels, scenes.num_objects, strict=True):
        assert labels.unique().tolist() == list(range(int(count) + 1))
        assert image[:, labels == 0].eq(0).all()
        for label in range(1, int(count) + 1):
            colours = image[:, labels == label].unique(dim=1)
            assert colours.shape[1] == 1
            assert tuple(colours[:, 0].tolist()) in palette


def test_the_scenes_are_a_real_task() -> None:
    """Objects touch or occlude one another, and their number and colours vary."""
    scenes = make_sprites("train", 1000)
    assert set(scenes.num_objects.tolist()) == {2, 3}
    labels = scenes.labels.long()
    right, down = labels[:, :, 1:] * labels[:, :, :-1], labels[:, 1:] * labels[:, :-1]
    differ_right = (right > 0) & (labels[:, :, 1:] != labels[:, :, :-1])
    differ_down = (down > 0) & (labels[:, 1:] != labels[:, :-1])
    touching = differ_right.flatten(1).any(1) | differ_down.flatten(1).any(1)
    assert touching.float().mean() > 0.3
    assert len(scenes.images.movedim(1, -1).reshape(-1, 3).unique(dim=0)) == len(COLOURS) + 1


def test_min_visible_is_kept() -> None:
    config = SpriteConfig(image_size=32, min_objects=3, max_objects=3, min_visible=0.9)
    labels = make_sprites("train", 200, config=config).labels
    areas = torch.stack([(labels == j).sum((1, 2)) for j in (1, 2, 3)])
    p = 1.5  # the exponent of the diamond, which is the smallest shape
    smallest = 4 * (config.min_radius * 32) ** 2 * math.gamma(1 + 1 / p) ** 2 / math.gamma(1 + 2 / p)
    assert areas.min() > 0.8 * smallest  # 0.9, up to the pixels of its border


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("split: expected one of train, validation, test, got 'dev'", {"split": "dev", "num_scenes": 1}),
        ("num_scenes: expected at least 1, got 0", {"split": "test", "num_scenes": 0}),
    ],
)
def test_bad_arguments_are_named(message: str, arguments: dict) -> None:
    with pytest.raises(ValueError, match=message):
        make_sprites(**arguments)


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("image_size: expected at least 16 pixels, got 8", {"image_size": 8}),
        ("min_objects <= max_objects, got 4 and 3", {"min_objects": 4}),
        ("min_radius <= max_radius < 0.5, got 0.21 and 0.6", {"max_radius": 0.6}),
        ("max_objects: expected at most 6, a colour each; got 7", {"max_objects": 7}),
        (r"min_visible: expected a fraction in \(0, 1\), got 1", {"min_visible": 1.0}),
    ],
)
def test_bad_configurations_are_named(message: str, fields: dict) -> None:
    with pytest.raises(ValueError, match=message):
        SpriteConfig(**fields)
