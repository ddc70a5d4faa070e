"""Scenes with ground truth: sprites and solids made on the spot, and a reader and a writer of a published format."""

from pyro_compvae.data.clevr_mv import DataError, read_clevr_mv
from pyro_compvae.data.clevr_mv_writer import write_clevr_mv
from pyro_compvae.data.load import load_scenes
from pyro_compvae.data.meshes import load_meshes
from pyro_compvae.data.scenes import Scene, SceneSet
from pyro_compvae.data.solids import CLE_MV, SolidScene, SolidsConfig, make_solids, solid_scenes
from pyro_compvae.data.sprites import SpriteConfig, make_sprites

__all__ = [
    "CLE_MV",
    "DataError",
    "Scene",
    "SceneSet",
    "SolidScene",
    "SolidsConfig",
    "SpriteConfig",
    "load_meshes",
    "load_scenes",
    "make_solids",
    "make_sprites",
    "read_clevr_mv",
    "solid_scenes",
    "write_clevr_mv",
]
