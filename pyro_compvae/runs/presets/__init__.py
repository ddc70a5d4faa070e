"""Named configurations."""

from pyro_compvae.runs.presets.named import PRESETS, preset

__all__ = ["PRESETS", "preset"]
