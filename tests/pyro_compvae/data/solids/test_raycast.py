"""The ray caster against closed forms: projections, Lambert's law, shadows."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from pyro_compvae.data.solids.raycast import AMBIENT, DIFFUSE, GAMMA, LIGHT, Cameras, Raycaster, silhouettes

GREY = np.full(3, 0.2)
RED = np.array([[0.8, 0.2, 0.1]])


def box(low: list[float], high: list[float]) -> trimesh.Trimesh:
    return trimesh.creation.box(bounds=[low, high])


def project(points: np.ndarray, location: np.ndarray, focal_length: float, image_size: int) -> np.ndarray:
    """Columns and rows (P, 2) in pixels of world points (P, 3), by the textbook's camera matrix K [R | t]."""
    forward = -location / np.linalg.norm(location)
    right = np.array([-location[1], location[0], 0]) / np.hypot(location[0], location[1])
    rotation = np.stack([right, np.cross(forward, right), forward])
    focal = focal_length * image_size
    intrinsics = np.array([[focal, 0, image_size / 2], [0, focal, image_size / 2], [0, 0, 1]])
    extrinsics = np.column_stack([rotation, -rotation @ location])
    homogeneous = np.column_stack([points, np.ones(len(points))]) @ (intrinsics @ extrinsics).T
    return homogeneous[:, :2] / homogeneous[:, 2:]


def encoded(linear: np.ndarray) -> np.ndarray:
    return np.rint(255 * linear ** (1 / GAMMA)).astype(np.uint8)


def test_the_light_is_a_unit_vector_from_above() -> None:
    assert np.linalg.norm(LIGHT) == pytest.approx(1)
    assert LIGHT[2] > 0
    assert pytest.approx(1) == AMBIENT + DIFFUSE


def test_silhouette_of_a_sphere_has_the_area_of_its_projection() -> None:
    """On the optical axis it is a disc of radius f tan(asin(r / distance))."""
    location, radius, size = np.array([[2.0, -3.0, 6.0]]), 1.5, 200
    ball = trimesh.creation.icosphere(subdivisions=5, radius=radius)
    area = silhouettes([ball], Cameras(location, 1.2), size).sum()
    tangent = np.tan(np.arcsin(radius / np.linalg.norm(location)))
    expected = np.pi * (1.2 * tangent * size) ** 2
    # A pixel counts if its centre is inside, so the error is far less than a pixel for each pixel of the border.
    assert abs(area - expected) < 0.1 * 2 * np.sqrt(np.pi * expected)


def test_front_face_of_a_box_has_known_pixels() -> None:
    """The camera looks along -x, so that y is to the right and z is up; half of the face is beyond the image."""
    cameras = Cameras(np.array([[9.0, 0.0, 0.0]]), focal_length=1.0)
    solid = box([-1, 0.5, -1], [1, 1.5, 3])
    labels = Raycaster([solid], RED, GREY).labels(cameras, 64)[0]
    # The front face is 8 units in front of the camera, where a unit has 8 pixels; the middle is at 32.
    expected = np.zeros((64, 64), np.uint8)
    expected[32 - 24 : 32 + 8, 32 + 4 : 32 + 12] = 1
    # The left side, seen at an angle, is behind it: 10 units away, with 6.4 pixels per unit, so its edge is at 3.2.
    rows, columns = np.nonzero(labels != expected)
    assert set(columns) == {32 + 3}
    assert rows.min() >= 32 - 24
    assert rows.max() < 32 + 8


def test_centres_project_to_their_labels() -> None:
    """Cameras look from all sides; objects are far apart, so only a nearer object may hide another's centre."""
    centres = np.array([[2.0, 0.5, 0.6], [-1.0, 1.5, 0.6], [-0.5, -2.0, 0.6]])
    meshes = [box(list(centre - 0.6), list(centre + 0.6)) for centre in centres]
    azimuth = np.deg2rad(25 + 72 * np.arange(5))
    cameras = Cameras(np.column_stack([7 * np.cos(azimuth), 7 * np.sin(azimuth), np.full(5, 6.0)]), 1.1)
    labels = Raycaster(meshes, np.tile(RED, (3, 1)), GREY).labels(cameras, 48)
    shapes = silhouettes(meshes, cameras, 48)
    checked = 0
    for view, location in enumerate(cameras.locations):
        for index, (column, row) in enumerate(project(centres, location, 1.1, 48).astype(int)):
            assert shapes[view, row, column, index] == 1
            if shapes[view, row, column].sum() == 1:
                assert labels[view, row, column] == 1 + index
                checked += 1
    assert checked >= 12


def test_the_nearer_object_hides_the_farther() -> None:
    near, far = box([2, -0.5, 0], [3, 0.5, 1]), box([-1, -0.5, 0], [0, 0.5, 1])
    cameras = Cameras(np.array([[9.0, 0.0, 0.5], [-9.0, 0.0, 0.5]]), 1.5)
    labels = Raycaster([near, far], np.tile(RED, (2, 1)), GREY).labels(cameras, 32)
    shapes = silhouettes([near, far], cameras, 32).astype(bool)
    for view, front in ((0, 0), (1, 1)):
        assert (shapes[view, ..., 0] & shapes[view, ..., 1]).any()
        np.testing.assert_array_equal(labels[view] == 1 + front, shapes[view, ..., front])
        np.testing.assert_array_equal(labels[view] > 0, shapes[view].any(-1))


@pytest.mark.parametrize("inside_out", [False, True])
def test_faces_of_a_box_obey_lamberts_law(inside_out: bool) -> None:
    solid = box([-1, -1, 0], [1, 1, 2])
    if inside_out:
        solid.invert()
    locations = np.array([[6.0, -6.0, 7.0], [-6.0, 6.0, 7.0]])
    images = Raycaster([solid], RED, GREY).images(Cameras(locations, 1.4), 64)
    # The first camera sees the sides towards the lamp, x = 1 and y = -1; the second one sees the others, in shadow.
    normals = np.array([[1, 0, 0], [0, -1, 0], [0, 0, 1], [-1, 0, 0], [0, 1, 0], [0, 0, 1]])
    for face, normal in enumerate(normals):
        view = face // 3
        centre = np.array([[0, 0, 1]]) + normal
        column, row = project(centre, locations[view], 1.4, 64)[0].astype(int)
        light = AMBIENT + DIFFUSE * max(float(normal @ LIGHT), 0)
        np.testing.assert_array_equal(images[view, row, column], encoded(RED[0] * light))


def test_shadows_fall_away_from_the_lamp() -> None:
    """The shadow of a small floating box is where the line through its centre along the light meets the ground."""
    centre = np.array([0.5, -0.3, 1.5])
    solid = box(list(centre - 0.3), list(centre + 0.3))
    locations = np.array([[1.0, 1.0, 9.0]])
    image = Raycaster([solid], RED, GREY).images(Cameras(locations, 1.0), 64)[0]
    shadow = centre - LIGHT * centre[2] / LIGHT[2]
    opposite = shadow + 2 * (centre - shadow) * [1, 1, 0]
    pixels = project(np.stack([shadow, opposite]), locations[0], 1.0, 64).astype(int)
    (column, row), (other_column, other_row) = pixels
    np.testing.assert_array_equal(image[row, column], encoded(GREY * AMBIENT))
    lit = encoded(GREY * (AMBIENT + DIFFUSE * LIGHT[2]))
    np.testing.assert_array_equal(image[other_row, other_column], lit)
    # The ground has the colours of lit and of shaded ground, and between them at the borders of shadows only.
    ground = image[(image == image[..., :1]).all(-1)][:, 0]
    assert np.isin(ground, [lit[0], encoded(GREY * AMBIENT)[0]]).mean() > 0.95


def test_the_sky_has_the_colour_of_the_lit_ground() -> None:
    far_away = box([-1, 99, 0], [1, 101, 2])
    image = Raycaster([far_away], RED, GREY).images(Cameras(np.array([[0.0, 9.0, 1.0]]), 1.0), 32)
    assert (image == encoded(GREY * (AMBIENT + DIFFUSE * LIGHT[2]))).all()


def test_borders_are_averages_of_linear_colours() -> None:
    """A vertical edge through the middle of a column of pixels."""
    white, black = np.ones((1, 3)), np.zeros(3)
    # It is 8 units from the camera, with 5 pixels per unit, so its edge is at column 20.5.
    wall = box([0.999, 0.1, -20], [1, 40, 20])
    image = Raycaster([wall], white, black).images(Cameras(np.array([[9.0, 0.0, 0.0]]), 1.0), 40)[0]
    light = AMBIENT + DIFFUSE * LIGHT[0]
    assert (image[:, 21:] == encoded(np.array(light))).all()
    assert (image[:, 20] == encoded(np.array(light / 2))).all()
    assert (image[:, :20] == 0).all()
