"""Presets for two CPU cores, which depend on what scenes look like; see docs/results.md for what they reach."""

from __future__ import annotations

from types import ModuleType

from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.presets import renders, small_scenes, tetrominoes
from pyro_compvae.runs.sections import DatasetName

_OWN: dict[DatasetName, ModuleType] = {
    "sprites": small_scenes,
    "solids": small_scenes,
    "tetrominoes": tetrominoes,
}


def iodine(dataset: DatasetName) -> RunConfig:
    """IODINE: less than half an hour on scenes of 24×24 pixels, and an hour or two on others."""
    return _presets(dataset).iodine(dataset)


def monet(dataset: DatasetName) -> RunConfig:
    """MONet: less than half an hour on scenes of 24×24 pixels, and up to three hours on others."""
    return _presets(dataset).monet(dataset)


def mulmon(dataset: DatasetName) -> RunConfig:
    """MulMON: less than half an hour on scenes of 24×24 pixels, and two or three hours on others."""
    return _presets(dataset).mulmon(dataset)


def _presets(dataset: DatasetName) -> ModuleType:
    return _OWN.get(dataset, renders)
