"""The data sections of presets."""

from __future__ import annotations

from pyro_compvae.runs.sections import SIDES, DataConfig, DatasetName


def data_section(dataset: DatasetName, image_size: int, num_views: int = 6) -> DataConfig:
    """The data section of a preset, with images of this size where a data set leaves the choice.

    Scenes of solids have several views and take longer to make, so there are fewer.
    """
    image_size = SIDES.get(dataset, image_size)
    if dataset == "solids":
        return DataConfig(dataset, image_size=image_size, num_views=num_views, num_train=1_000, num_test=160)
    if dataset == "tetrominoes":
        return DataConfig(dataset, image_size=image_size, num_train=60_000)
    return DataConfig(dataset, image_size=image_size)
