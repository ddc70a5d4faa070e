"""Pictures and label maps of coloured meshes on a ground plane, by ray casting (trimesh with embree).

In the world z is up, the ground is the plane z = 0, and all objects are above it. Surfaces are matt (Lambert), lit by a
distant lamp, which casts hard shadows, and by ambient light that is the same from all sides. Colours are linear, so
that light adds up, until they are encoded for the screen. The published colours of CLEVR are linear too, and so look
darker than its pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import trimesh
from numpy.typing import NDArray
from trimesh.ray.ray_pyembree import RayMeshIntersector

LIGHT = np.array([0.48, -0.36, 0.8])
"""The unit vector towards the lamp."""
AMBIENT, DIFFUSE = 0.3, 0.7
"""Shares of light: a surface that faces the lamp shows its full colour, and one in shadow shows 0.3 of it."""
GAMMA = 2.2
"""The gamma of the screen: the byte is 255 * linear ** (1 / GAMMA)."""

SAMPLES = 2
"""Rays along a side of a pixel: colours are averages over 2 x 2 rays."""
SHADOW_BIAS = 1e-3
"""Distance in world units at which shadow rays start above a surface, so that rounding cannot make it shadow itself."""


@dataclass(frozen=True)
class Cameras:
    """V pinhole cameras that look at the origin with the z axis upright.

    locations:    (V, 3), world units, off the vertical axis
    focal_length: distance of the image plane in sides of the (square) image
    """

    locations: NDArray[np.float64]
    focal_length: float

    def axes(self) -> NDArray[np.float64]:
        """Unit vectors to the right and down in the image, and forward, in world coordinates, (V, 3, 3)."""
        forward = -self.locations / np.linalg.norm(self.locations, axis=1, keepdims=True)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right, axis=1, keepdims=True)
        return np.stack([right, np.cross(forward, right), forward], axis=1)

    def rays(self, resolution: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rays through the centres of pixels, view after view and row after row.

        Args:
            resolution: R, the number of pixels along a side of the image.

        Returns:
            The origins and the unit directions, both (V * R * R, 3).
        """
        offset = ((np.arange(resolution) + 0.5) / resolution - 0.5) / self.focal_length
        down, right = np.meshgrid(offset, offset, indexing="ij")
        pixels = np.stack([right, down, np.ones_like(right)], axis=-1).reshape(-1, 3)
        pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
        directions = pixels @ self.axes()  # (V, R * R, 3)
        origins = np.broadcast_to(self.locations[:, None], directions.shape)
        return origins.reshape(-1, 3), directions.reshape(-1, 3)


class Raycaster:
    """N objects on the ground, prepared for ray casting.

    Args:
        meshes: the objects' meshes, in world coordinates.
        colours: the objects' linear colours, (N, 3), in [0, 1].
        ground: the colour of the ground, (3,). Above the horizon everything has the colour of the lit ground.
    """

    def __init__(
        self, meshes: Sequence[trimesh.Trimesh], colours: NDArray[np.float64], ground: NDArray[np.float64]
    ) -> None:
        num_faces = [len(mesh.faces) for mesh in meshes]
        self._embree = RayMeshIntersector(trimesh.util.concatenate(list(meshes)))
        # The last row of each table is the ground's, because embree gives -1 to rays that meet no face.
        self._normals = np.vstack([*(mesh.face_normals for mesh in meshes), [0.0, 0.0, 1.0]])
        self._corners = np.vstack([*(mesh.triangles[:, 0] for mesh in meshes), np.zeros(3)])
        self._colours = np.vstack([np.repeat(colours, num_faces, axis=0), ground])
        self._labels = np.append(np.repeat(np.arange(len(meshes)) + 1, num_faces), 0).astype(np.uint8)

    def labels(self, cameras: Cameras, image_size: int) -> NDArray[np.uint8]:
        """Labels (V, H, W): 1 + the index of the object that the ray through the pixel's centre meets first, or 0."""
        faces = self._embree.intersects_first(*cameras.rays(image_size))
        return self._labels[faces].reshape(-1, image_size, image_size)

    def images(self, cameras: Cameras, image_size: int) -> NDArray[np.uint8]:
        """Pictures (V, H, W, 3), whose colours are averages over the area of a pixel."""
        colours = self._colours_along(*cameras.rays(image_size * SAMPLES))
        blocks = colours.reshape(-1, image_size, SAMPLES, image_size, SAMPLES, 3)
        return np.rint(255 * blocks.mean(axis=(2, 4)) ** (1 / GAMMA)).astype(np.uint8)

    def _colours_along(self, origins: NDArray[np.float64], directions: NDArray[np.float64]) -> NDArray[np.float64]:
        """The colour that each of R rays meets, (R, 3)."""
        faces = self._embree.intersects_first(origins, directions)
        light = np.full(len(faces), AMBIENT + DIFFUSE * LIGHT[2])  # the light of the lit ground, and so of the sky
        surface = np.flatnonzero((faces >= 0) | (directions[:, 2] < 0))
        origins, directions, normals = origins[surface], directions[surface], self._normals[faces[surface]]
        slope = _dot(directions, normals)
        distance = _dot(self._corners[faces[surface]] - origins, normals) / slope
        points = origins + directions * distance[:, None]
        # Objects are seen from outside, in whichever orientation their triangles are stored.
        normals *= -np.sign(slope)[:, None]
        lamp = np.maximum(normals @ LIGHT, 0)
        towards = np.flatnonzero(lamp)
        starts = points[towards] + SHADOW_BIAS * normals[towards]
        lamp[towards[self._embree.intersects_any(starts, np.broadcast_to(LIGHT, starts.shape))]] = 0
        light[surface] = AMBIENT + DIFFUSE * lamp
        return self._colours[faces] * light[:, None]


def silhouettes(meshes: Sequence[trimesh.Trimesh], cameras: Cameras, image_size: int) -> NDArray[np.uint8]:
    """Masks (V, H, W, N): 1 where the ray through the pixel's centre meets the object, whatever is in front of it."""
    origins, directions = cameras.rays(image_size)
    hits = [RayMeshIntersector(mesh).intersects_any(origins, directions) for mesh in meshes]
    return np.stack(hits, axis=-1).astype(np.uint8).reshape(-1, image_size, image_size, len(meshes))


def _dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.einsum("ij,ij->i", a, b)
