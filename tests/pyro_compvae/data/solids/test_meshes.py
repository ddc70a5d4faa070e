"""Shapes of solids, built-in ones and files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

from pyro_compvae.data import DataError
from pyro_compvae.data.solids.meshes import SHAPES, load_meshes


def export(path: Path) -> trimesh.Trimesh:
    """Write a ring, which is off centre and not of unit size, to a file."""
    ring = trimesh.creation.annulus(r_min=1, r_max=3, height=4, sections=12)
    ring.apply_translation([5, -7, 11])
    ring.export(path)
    return ring


@pytest.mark.parametrize("name", list(SHAPES))
def test_built_in_shapes_stand_on_the_ground(name: str) -> None:
    shape = SHAPES[name]
    assert shape.is_watertight
    np.testing.assert_allclose(shape.bounds, [[-1, -1, 0], [1, 1, 2]], atol=1e-6)


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".stl", ".STL"])
def test_files_are_centred_scaled_and_stand_on_the_ground(tmp_path: Path, suffix: str) -> None:
    ring = export(tmp_path / f"ring{suffix}")
    (tmp_path / "notes.txt").write_text("no mesh")
    meshes = load_meshes(tmp_path)
    assert list(meshes) == ["ring"]
    np.testing.assert_allclose(meshes["ring"].bounds, [[-1, -1, 0], [1, 1, 4 / 3]], atol=1e-5)
    assert meshes["ring"].is_watertight
    assert meshes["ring"].volume == pytest.approx(ring.volume / 27, rel=1e-4)


def test_seams_of_texture_are_no_holes(tmp_path: Path) -> None:
    """A tetrahedron has other texture coordinates at its vertices in every face, and materials that are missing."""
    corners = ["0 0 0", "1 0 0", "0 1 0", "0 0 1"]
    faces = [(1, 3, 2), (1, 2, 4), (2, 3, 4), (1, 4, 3)]
    lines = ["mtllib nowhere.mtl", "usemtl paint", *(f"v {corner}" for corner in corners)]
    lines += [f"vt {i / 12} 0.5" for i in range(12)]
    lines += ["f " + " ".join(f"{v}/{3 * i + j + 1}" for j, v in enumerate(face)) for i, face in enumerate(faces)]
    (tmp_path / "tetrahedron.obj").write_text("\n".join(lines))
    assert len(load_meshes(tmp_path)["tetrahedron"].vertices) == 4


def expect(message: str, folder: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_meshes(folder)
    assert "\n" not in str(caught.value)


def test_folders_without_meshes_are_named(tmp_path: Path) -> None:
    expect(r"meshes: expected a folder of \.obj, \.ply, \.stl files, got .*nowhere, no folder", tmp_path / "nowhere")
    (tmp_path / "mesh.fbx").touch()
    expect(rf"meshes: expected \.obj, \.ply, \.stl files in {tmp_path}, found none", tmp_path)


def test_meshes_with_holes_are_named(tmp_path: Path) -> None:
    solid = trimesh.creation.box()
    trimesh.Trimesh(solid.vertices, solid.faces[:-1]).export(tmp_path / "open.ply")
    expect(r"open\.ply: expected a watertight mesh, .* got one with holes", tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.obj", b""),
        ("points.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\n"),
        ("damaged.stl", b"\x00" * 90),
        ("damaged.ply", b"ply\nformat ascii 1.0\nelement vertex 3\n"),
        ("nan.obj", b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"),
    ],
)
def test_damaged_and_empty_meshes_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    expect(rf"{name}: expected a (watertight )?mesh", tmp_path)


def test_names_are_unique(tmp_path: Path) -> None:
    export(tmp_path / "cube.stl")
    expect(r"cube\.stl: expected a name of its own, but a built-in shape is called cube too", tmp_path)
    (tmp_path / "cube.stl").rename(tmp_path / "ring.stl")
    export(tmp_path / "ring.obj")
    expect(r"ring\.stl: expected a name of its own, but another file is called ring too", tmp_path)
