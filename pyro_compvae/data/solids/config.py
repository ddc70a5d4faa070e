"""The look of scenes of solids: counts, sizes, colours and cameras, with our own settings and those of CLE-MV."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyro_compvae.data.solids.meshes import SHAPES
from pyro_compvae.data.solids.raycast import Cameras
from pyro_compvae.errors import ArgumentError

# The colours are linear, times 255.
PALETTES: dict[str, dict[str, tuple[int, int, int]]] = {
    "bright": {
        "red": (240, 8, 8),
        "green": (10, 170, 20),
        "blue": (15, 45, 255),
        "yellow": (255, 205, 8),
        "magenta": (220, 15, 220),
        "cyan": (8, 200, 220),
    },
    "clevr": {
        "gray": (87, 87, 87),
        "red": (173, 35, 35),
        "blue": (42, 75, 215),
        "green": (29, 105, 20),
        "brown": (129, 74, 25),
        "purple": (129, 38, 192),
        "cyan": (41, 208, 208),
        "yellow": (255, 238, 51),
    },
}


@dataclass(frozen=True)
class SolidsConfig:
    """The look of scenes of solids. Lengths are in world units unless stated otherwise.

    image_size: the side of the square images in pixels.
    num_views: the number of cameras, at equal angles on a circle around the z axis, looking at the origin.
    min_objects, max_objects: the range of the number of objects per scene, which is drawn uniformly.
    shapes: the built-in shapes to use; a user's meshes are added to them.
    sizes: half the longest side of an object (a sphere's radius), drawn uniformly from these.
    extent: the centres of objects lie in the square from -extent to extent.
    gap: the least distance on the ground between the circles within which objects stay when they turn.
    camera_radius, camera_height: the radius and height of the circle of cameras.
    camera_azimuth: the angle of the first view, in degrees from the x axis; the same in all scenes, as in CLE-MV.
    focal_length: the focal length, in sides of the image.
    min_visible: the fraction of the first view's pixels that every object covers at least.
    palette: the set of colours: "bright" (6) or "clevr" (8).
    distinct_colours: whether the objects of a scene all have different colours.
    ground: the linear grey level of the ground, from 0 to 1.
    """

    image_size: int = 32
    num_views: int = 6
    min_objects: int = 2
    max_objects: int = 3
    shapes: tuple[str, ...] = ("cube", "sphere", "cylinder")
    sizes: tuple[float, ...] = (0.8, 1.0)
    extent: float = 1.6
    gap: float = 0.05
    camera_radius: float = 8.0
    camera_height: float = 6.0
    camera_azimuth: float = 0.0
    focal_length: float = 1.5
    min_visible: float = 0.025
    palette: str = "bright"
    distinct_colours: bool = True
    ground: float = 0.08

    def __post_init__(self) -> None:
        if self.image_size < 16:
            raise ArgumentError(f"image_size: expected at least 16 pixels, got {self.image_size}")
        if self.num_views < 1:
            raise ArgumentError(f"num_views: expected at least 1, got {self.num_views}")
        if not 1 <= self.min_objects <= self.max_objects:
            raise ArgumentError(
                f"expected 1 <= min_objects <= max_objects, got {self.min_objects} and {self.max_objects}"
            )
        if not self.shapes or not set(self.shapes) <= set(SHAPES):
            raise ArgumentError(f"shapes: expected one or more of {', '.join(SHAPES)}, got {self.shapes}")
        if not self.sizes or min(self.sizes) <= 0:
            raise ArgumentError(f"sizes: expected one or more positive numbers, got {self.sizes}")
        if self.extent < 0 or self.gap < 0:
            raise ArgumentError(f"extent and gap: expected zero or more, got {self.extent} and {self.gap}")
        # A camera among the objects could look into one of them.
        nearest = np.sqrt(2) * (self.extent + max(self.sizes))
        if self.camera_radius <= nearest or self.camera_height <= 0:
            raise ArgumentError(
                f"camera_radius and camera_height: expected more than {nearest:.2f}, beyond all objects, and more than "
                f"0, the ground; got {self.camera_radius} and {self.camera_height}"
            )
        if self.focal_length <= 0:
            raise ArgumentError(f"focal_length: expected a positive number, got {self.focal_length}")
        if not 0 <= self.min_visible < 1:
            raise ArgumentError(f"min_visible: expected a fraction in [0, 1), got {self.min_visible}")
        if self.palette not in PALETTES:
            raise ArgumentError(f"palette: expected one of {', '.join(PALETTES)}, got {self.palette!r}")
        if self.distinct_colours and self.max_objects > len(PALETTES[self.palette]):
            raise ArgumentError(
                f"max_objects: expected at most {len(PALETTES[self.palette])}, a colour of {self.palette!r} each; "
                f"got {self.max_objects}. Allow more with distinct_colours=False."
            )
        if not 0 <= self.ground <= 1:
            raise ArgumentError(f"ground: expected a grey level in [0, 1], got {self.ground}")

    def cameras(self) -> Cameras:
        """The cameras of every scene."""
        azimuth = np.deg2rad(self.camera_azimuth) + 2 * np.pi * np.arange(self.num_views) / self.num_views
        height = np.full_like(azimuth, self.camera_height)
        ground = self.camera_radius * np.stack([np.cos(azimuth), np.sin(azimuth)], axis=1)
        return Cameras(np.column_stack([ground, height]), self.focal_length)


CLE_MV = SolidsConfig(
    image_size=64,
    num_views=10,
    min_objects=3,
    max_objects=6,
    sizes=(0.7, 0.9),
    extent=3.0,
    gap=0.075,
    camera_radius=9.915,
    camera_height=3.508,
    camera_azimuth=-41.02,
    focal_length=35 / 32,  # lens and sensor of CLEVR's Blender scene, in mm
    min_visible=48 / 64**2,
    palette="clevr",
    distinct_colours=False,
    ground=0.25,
)
"""The published statistics of CLE-MV (MulMON), fitted to renders of its generator, without its metal and soft light.

Objects keep apart by the circles within which they turn; the generator asks for margins along four directions instead.
"""
