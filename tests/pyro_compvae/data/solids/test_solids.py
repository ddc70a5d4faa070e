"""Scenes of solids: their content, seeds and splits, and refused settings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import trimesh

from pyro_compvae.data.solids.config import CLE_MV, SolidsConfig
from pyro_compvae.data.solids.scenes import make_solids, solid_scenes

SMALL = SolidsConfig(image_size=16, num_views=3)
CROWDED = SolidsConfig(min_objects=3, max_objects=3, sizes=(2.0,), extent=1.0)


def test_the_record() -> None:
    scenes = make_solids("train", 4)
    assert (len(scenes), scenes.num_views, scenes.image_size) == (4, 6, (32, 32))
    batch = scenes[torch.tensor([2, 0])]
    assert batch.image.shape == (2, 6, 3, 32, 32)
    assert batch.labels.shape == (2, 6, 32, 32)
    assert batch.viewpoint is not None
    angles = torch.arange(6) * torch.pi / 3
    expected = torch.stack([angles.cos() - 1, angles.sin(), torch.zeros(6)], dim=1)
    torch.testing.assert_close(batch.viewpoint, expected.expand(2, 6, 3))
    assert scenes.num_objects.dtype == torch.int64
    for labels, count in zip(scenes.labels, scenes.num_objects, strict=True):
        assert labels[0].unique().tolist() == list(range(int(count) + 1))


def test_a_label_is_one_object_in_all_views() -> None:
    """The brightest pixel of an object shows which channels of its colour are strong; no two colours share them."""
    for scene in solid_scenes("test", 6, config=SolidsConfig(num_views=5)):
        for view, (index, solid) in itertools.product(range(5), enumerate(scene.solids)):
            pixels = scene.images[view][scene.labels[view] == 1 + index].astype(int)
            if len(pixels) == 0:
                continue
            # The borders are left out, because their colours are mixed.
            strong = np.median(pixels, axis=0) > 0.6 * np.median(pixels, axis=0).max()
            names = {"red": 100, "green": 10, "blue": 1, "yellow": 110, "magenta": 101, "cyan": 11}
            assert int(strong @ [100, 10, 1]) == names[solid.colour]


def test_scenes_are_as_configured() -> None:
    config = SolidsConfig(image_size=16, num_views=1, shapes=("cone", "sphere"), sizes=(0.5, 0.75), max_objects=4)
    scenes = list(solid_scenes("train", 25, config=config))
    solids = [solid for scene in scenes for solid in scene.solids]
    assert {len(scene.solids) for scene in scenes} == {2, 3, 4}
    assert {solid.shape for solid in solids} == {"cone", "sphere"}
    assert {solid.size for solid in solids} == {0.5, 0.75}
    assert len({solid.colour for solid in solids}) == 6
    assert np.abs([solid.position for solid in solids]).max() <= config.extent
    for scene in scenes:
        assert len({solid.colour for solid in scene.solids}) == len(scene.solids)
        for mesh, solid in zip(scene.meshes, scene.solids, strict=True):
            expected = [[*np.subtract(solid.position, solid.size), 0], [*np.add(solid.position, solid.size), 0]]
            expected[1][2] = 2 * solid.size
            np.testing.assert_allclose(mesh.bounds, expected, atol=0.01)  # a turned polygon is no perfect circle
        for one, other in itertools.combinations(scene.solids, 2):
            distance = np.linalg.norm(np.subtract(one.position, other.position))
            assert distance >= one.size + other.size + config.gap


def test_cle_mv_has_the_published_statistics() -> None:
    scenes = list(solid_scenes("train", 6, config=CLE_MV))
    for scene in scenes:
        assert 3 <= len(scene.solids) <= 6
        assert scene.images.shape == (10, 64, 64, 3)
        assert np.bincount(scene.labels[0].ravel(), minlength=1 + len(scene.solids))[1:].min() >= 48
        locations = scene.cameras.locations
        np.testing.assert_allclose(np.hypot(locations[:, 0], locations[:, 1]), 9.915)
        np.testing.assert_allclose(locations[:, 2], 3.508)
        azimuth = np.unwrap(np.arctan2(locations[:, 1], locations[:, 0]))
        np.testing.assert_allclose(np.diff(azimuth), np.deg2rad(36))
    # This is the first location in the published files, which would reveal a slightly wrong camera.
    np.testing.assert_allclose(scenes[0].cameras.locations[0], [7.481, -6.508, 3.508], atol=2e-3)


def test_min_visible_is_kept_and_matters() -> None:
    def least(min_visible: float) -> int:
        scenes = make_solids("train", 15, config=SolidsConfig(image_size=16, num_views=1, min_visible=min_visible))
        areas = [(scenes.labels == 1 + i).sum((1, 2, 3))[scenes.num_objects > i] for i in range(3)]
        return int(torch.cat(areas).min())

    assert least(0.0) < 0.07 * 256 <= least(0.07)


def test_seeds_splits_and_prefixes() -> None:
    first = make_solids("train", 3, seed=1, config=SMALL)
    longer = make_solids("train", 5, seed=1, config=SMALL)
    assert torch.equal(first.images, longer.images[:3])
    assert torch.equal(first.labels, longer.labels[:3])
    assert not torch.equal(longer.images[0], longer.images[1])
    others = [("train", 2), ("validation", 1), ("test", 1)]
    for one, other in itertools.combinations([("train", 1), *others], 2):
        images = [make_solids(split, 1, seed=seed, config=SMALL).images for split, seed in (one, other)]
        assert not torch.equal(*images)


def test_user_meshes_join_the_shapes() -> None:
    slab = trimesh.creation.box(bounds=[[-1, -1, 0], [1, 1, 0.2]])
    scenes = list(solid_scenes("train", 10, config=SMALL, meshes={"slab": slab}))
    shapes = [solid.shape for scene in scenes for solid in scene.solids]
    assert set(shapes) == {*SMALL.shapes, "slab"}
    heights = [
        mesh.bounds[1, 2] / solid.size
        for scene in scenes
        for mesh, solid in zip(scene.meshes, scene.solids, strict=True)
    ]
    np.testing.assert_allclose(heights, [0.2 if shape == "slab" else 2.0 for shape in shapes])


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("split: expected one of train, validation, test, got 'dev'", {"split": "dev"}),
        ("num_scenes: expected at least 1, got 0", {"num_scenes": 0}),
        ("seed: expected a whole number from 0 to 4294967295, got -1", {"seed": -1}),
        ("expected scenes whose objects do not touch .* found none in 1000 draws.*extent=1.0", {"config": CROWDED}),
    ],
)
def test_bad_arguments_are_named(message: str, arguments: dict) -> None:
    with pytest.raises(ValueError, match=message):
        make_solids(**{"split": "train", "num_scenes": 1, **arguments})


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("image_size: expected at least 16 pixels, got 8", {"image_size": 8}),
        ("num_views: expected at least 1, got 0", {"num_views": 0}),
        ("min_objects <= max_objects, got 4 and 3", {"min_objects": 4}),
        ("shapes: expected one or more of cube, sphere, cylinder, cone, got .*'duck'", {"shapes": ("cube", "duck")}),
        (r"sizes: expected one or more positive numbers, got \(0.8, 0\)", {"sizes": (0.8, 0)}),
        ("extent and gap: expected zero or more, got 1.6 and -0.1", {"gap": -0.1}),
        ("camera_radius and camera_height: expected more than 3.68, .* got 3.0 and 6.0", {"camera_radius": 3.0}),
        ("camera_radius and camera_height: .* got 8.0 and 0.0", {"camera_height": 0.0}),
        ("focal_length: expected a positive number, got 0", {"focal_length": 0.0}),
        (r"min_visible: expected a fraction in \[0, 1\), got 30", {"min_visible": 30}),
        ("palette: expected one of bright, clevr, got 'pastel'", {"palette": "pastel"}),
        ("max_objects: expected at most 6, a colour of 'bright' each; got 7", {"max_objects": 7}),
        (r"ground: expected a grey level in \[0, 1\], got 128", {"ground": 128}),
    ],
)
def test_bad_configurations_are_named(message: str, fields: dict) -> None:
    with pytest.raises(ValueError, match=message):
        SolidsConfig(**fields)
