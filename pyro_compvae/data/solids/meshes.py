"""The shapes of solids: built-in ones, and a user's mesh files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import trimesh

from pyro_compvae.data.records import DataError
from pyro_compvae.runs.files import check_opens

SUFFIXES = (".obj", ".ply", ".stl")


def unit_mesh(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """A copy of a mesh that stands on the ground, z = 0, centred on the z axis, with a longest side of 2.

    Sides are those of the bounding box along the coordinate axes; z is up, as in Blender and in most STL files.
    """
    low, high = mesh.bounds
    foot = [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]]
    placed = mesh.copy()
    placed.apply_translation(np.negative(foot))
    placed.apply_scale(2 / (high - low).max())
    return placed


SHAPES: Mapping[str, trimesh.Trimesh] = MappingProxyType(
    {
        "cube": unit_mesh(trimesh.creation.box()),
        "sphere": unit_mesh(trimesh.creation.icosphere(subdivisions=3)),
        "cylinder": unit_mesh(trimesh.creation.cylinder(radius=1, height=2, sections=48)),
        "cone": unit_mesh(trimesh.creation.cone(radius=1, height=2, sections=48)),
    }
)
"""The built-in shapes, which stand on z = 0, with radius 1 (of the cube: half a side) and height 2."""


def load_meshes(folder: Path) -> dict[str, trimesh.Trimesh]:
    """Load the .obj, .ply and .stl files of a folder as shapes, named and ordered by file name without the ending.

    Raises:
        DataError: if there is no such folder or no mesh in it, or a mesh cannot be read, is empty or is not watertight,
            or two meshes have the same name; the message names the file.
    """
    if not folder.is_dir():
        raise DataError(f"meshes: expected a folder of {', '.join(SUFFIXES)} files, got {folder}, no folder.")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"meshes: expected {', '.join(SUFFIXES)} files in {folder}, found none.")
    meshes: dict[str, trimesh.Trimesh] = {}
    for path in paths:
        if path.stem in meshes or path.stem in SHAPES:
            taken = "a built-in shape" if path.stem in SHAPES else "another file"
            raise DataError(f"{path}: expected a name of its own, but {taken} is called {path.stem} too. Rename it.")
        meshes[path.stem] = unit_mesh(_load_mesh(path))
    return meshes


def _load_mesh(path: Path) -> trimesh.Trimesh:
    check_opens(path, DataError)
    try:
        loaded = trimesh.load_mesh(path, skip_materials=True)
    except Exception as error:  # damaged files make the parsers raise a dozen unrelated types
        raise DataError(f"{path}: expected a mesh, but it cannot be read ({error}). Export it again.") from error
    if len(loaded.faces) == 0:
        raise DataError(f"{path}: expected a mesh of triangles, found none in it. Export it again, with its faces.")
    # Files repeat a vertex where texture or normal changes. Without these it is one vertex, and the mesh has no seam.
    mesh = trimesh.Trimesh(loaded.vertices, loaded.faces)
    if not mesh.is_watertight:
        raise DataError(
            f"{path}: expected a watertight mesh, whose faces enclose a volume, got one with holes. Close them in a "
            "3-D editor, for example with Blender's 3D-Print Toolbox (Make Manifold)."
        )
    return mesh
