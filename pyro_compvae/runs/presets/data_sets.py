"""The data sets of presets: which of them are made on the spot, and with how many scenes."""

from __future__ import annotations

from pyro_compvae.runs.sections import DataConfig, DatasetName

MADE = ("sprites", "solids")
"""Data sets that are made on the spot."""


def data_section(dataset: DatasetName, image_size: int, num_views: int = 6) -> DataConfig:
    """The data section of a preset. Scenes of solids have several views and take longer to make, so there are fewer."""
    if dataset == "solids":
        return DataConfig(dataset, image_size=image_size, num_views=num_views, num_train=1_000, num_test=160)
    return DataConfig(dataset, image_size=image_size)
