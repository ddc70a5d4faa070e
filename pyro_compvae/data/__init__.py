"""Scenes with ground truth: public data sets, and sprites, Tetrominoes, multi-dSprites and solids made on the spot.

`convert` turns public data sets into files of scenes (`scene_file`); `readers.sources` lists the known ones. Scenes of
solids, which need a ray caster, are in the package `solids`.
"""

from pyro_compvae.data.load import load_scenes
from pyro_compvae.data.multi_dsprites import make_multi_dsprites
from pyro_compvae.data.readers.clevr_mv import read_clevr_mv
from pyro_compvae.data.records import DataError, Scene, StoredScene
from pyro_compvae.data.scene_file.reading import read_scene_file
from pyro_compvae.data.scene_file.writing import write_scenes
from pyro_compvae.data.scenes import SceneSet
from pyro_compvae.data.sprites import SpriteConfig, make_sprites
from pyro_compvae.data.tetrominoes import make_tetrominoes, render_pieces

__all__ = [
    "DataError",
    "Scene",
    "SceneSet",
    "SpriteConfig",
    "StoredScene",
    "load_scenes",
    "make_multi_dsprites",
    "make_sprites",
    "make_tetrominoes",
    "read_clevr_mv",
    "read_scene_file",
    "render_pieces",
    "write_scenes",
]
