"""Scenes with ground truth: sprites made on the spot, and readers of published formats."""

from pyro_compvae.data.clevr_mv import DataError, read_clevr_mv
from pyro_compvae.data.load import load_scenes
from pyro_compvae.data.scenes import Scene, SceneSet
from pyro_compvae.data.sprites import SpriteConfig, make_sprites

__all__ = ["DataError", "Scene", "SceneSet", "SpriteConfig", "load_scenes", "make_sprites", "read_clevr_mv"]
