"""Configurations by the names of their presets, for any guide and data set."""

from __future__ import annotations

from types import ModuleType
from typing import get_args

from pyro_compvae.errors import ConfigError
from pyro_compvae.runs.config import SECTIONS, RunConfig
from pyro_compvae.runs.presets import default, paper, tiny
from pyro_compvae.runs.sections import DatasetName, GuideName

PRESETS: dict[str, ModuleType] = {"default": default, "paper": paper, "tiny": tiny}
"""Presets by name; each module has a function for every guide, of the guide's name."""


def preset(name: str, guide: GuideName = "iodine", dataset: DatasetName | None = None) -> RunConfig:
    """The configuration of that name for a guide and a data set: by default sprites, or solids for several views.

    "paper" has the settings of Tables 2–4 of the paper at 64×64 with K = 7, D = 16; "default" is sized for two CPU
    cores; "tiny" runs for seconds and learns nothing.

    Raises:
        ConfigError: for an unknown preset or guide.
    """
    if guide not in get_args(GuideName):
        raise ConfigError(f"guide: expected one of {', '.join(get_args(GuideName))}; got {guide!r}")
    if name not in PRESETS:
        raise ConfigError(f"preset: expected one of {', '.join(PRESETS)}; got {name!r}")
    multi_view = "views" in SECTIONS[guide]
    return getattr(PRESETS[name], guide)(dataset or ("solids" if multi_view else "sprites"))
