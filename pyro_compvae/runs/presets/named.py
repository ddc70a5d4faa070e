"""Configurations by the names of their presets, for any guide and data set."""

from __future__ import annotations

from typing import get_args

from pyro_compvae.errors import ConfigError
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.presets import default, paper, tiny
from pyro_compvae.runs.sections import DatasetName, GuideName

PRESETS = ("default", "paper", "tiny")


def preset(name: str, guide: GuideName = "iodine", dataset: DatasetName | None = None) -> RunConfig:
    """The configuration of that name for a guide and a data set (sprites by default, solids for MulMON).

    "paper" has the settings of Tables 2–4 of the paper at 64×64 with K = 7, D = 16; "default" is sized for two CPU
    cores; "tiny" runs for seconds and learns nothing.

    Raises:
        ConfigError: for an unknown preset or guide.
    """
    makers = {
        ("default", "iodine"): default.iodine,
        ("default", "monet"): default.monet,
        ("default", "mulmon"): default.mulmon,
        ("paper", "iodine"): paper.iodine,
        ("paper", "monet"): paper.monet,
        ("paper", "mulmon"): paper.mulmon,
        ("tiny", "iodine"): tiny.iodine,
        ("tiny", "monet"): tiny.monet,
        ("tiny", "mulmon"): tiny.mulmon,
    }
    if guide not in get_args(GuideName):
        raise ConfigError(f"guide: expected one of {', '.join(get_args(GuideName))}; got {guide!r}")
    if name not in PRESETS:
        raise ConfigError(f"preset: expected one of {', '.join(PRESETS)}; got {name!r}")
    return makers[name, guide](dataset or ("solids" if guide == "mulmon" else "sprites"))
