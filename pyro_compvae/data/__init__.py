"""Scenes with ground truth: sprites made on the spot, and public data sets.

`convert` makes files of scenes of them (`scene_file`); what is known is in `sources`. Scenes of solids, which need a
ray caster, are in `solids`, `meshes` and `clevr_mv_writer`.
"""

from pyro_compvae.data.load import load_scenes
from pyro_compvae.data.readers.clevr_mv import read_clevr_mv
from pyro_compvae.data.records import DataError, Scene, StoredScene
from pyro_compvae.data.scene_file.reading import read_scene_file
from pyro_compvae.data.scene_file.writing import write_scenes
from pyro_compvae.data.scenes import SceneSet
from pyro_compvae.data.sprites import SpriteConfig, make_sprites

__all__ = [
    "DataError",
    "Scene",
    "SceneSet",
    "SpriteConfig",
    "StoredScene",
    "load_scenes",
    "make_sprites",
    "read_clevr_mv",
    "read_scene_file",
    "write_scenes",
]
