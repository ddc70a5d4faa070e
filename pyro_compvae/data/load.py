"""The scenes that a configuration asks for."""

from __future__ import annotations

from pathlib import Path

from pyro_compvae.config import DataConfig
from pyro_compvae.data.clevr_mv import WHERE_TO_GET, DataError, read_clevr_mv
from pyro_compvae.data.scenes import SceneSet
from pyro_compvae.data.sprites import SpriteConfig, make_sprites

FOLDERS = {"clevr-mv": "clevr_mv", "dolphin": "clevr_aug"}


def load_scenes(config: DataConfig, split: str) -> SceneSet:
    """One split: "train", "validation" (for a look during training) or "test" (unseen until the end).

    Data on disk have no validation split; the last tenth of their training scenes is held out for it.

    Raises:
        DataError: if data on disk are missing or malformed.
        ValueError: for an unknown split.
    """
    if config.name == "sprites":
        sprites = SpriteConfig(image_size=config.image_size)
        size = config.num_train if split == "train" else config.num_test
        return make_sprites(split, size, config=sprites)
    if config.root is None:
        raise DataError(
            f"--data-root: expected the folder that holds {FOLDERS[config.name]}/, got nothing. {WHERE_TO_GET}"
        )
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split: expected train, validation or test, got {split!r}")
    name = FOLDERS[config.name]
    scenes = read_clevr_mv(Path(config.root), name, "test" if split == "test" else "train", config.image_size)
    if split == "test":
        return scenes
    # Views of one scene are neighbours, so a cut at nine tenths splits one scene at the most.
    cut = len(scenes) * 9 // 10
    return scenes.part(slice(None, cut) if split == "train" else slice(cut, None))
