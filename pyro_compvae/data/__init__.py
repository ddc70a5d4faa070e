"""Scenes with ground truth: sprites made on the spot, and a reader of a published format.

Scenes of solids, which need a ray caster, are in `solids`, `meshes` and `clevr_mv_writer`.
"""

from pyro_compvae.data.clevr_mv import read_clevr_mv
from pyro_compvae.data.load import load_scenes
from pyro_compvae.data.scenes import DataError, Scene, SceneSet
from pyro_compvae.data.sprites import SpriteConfig, make_sprites

__all__ = ["DataError", "Scene", "SceneSet", "SpriteConfig", "load_scenes", "make_sprites", "read_clevr_mv"]
