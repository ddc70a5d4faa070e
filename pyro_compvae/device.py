"""Where to compute."""

from __future__ import annotations

import torch

from pyro_compvae.config import ConfigError


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one.

    Raises:
        ConfigError: for "cuda" on a machine without a GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device: expected a machine with a GPU for cuda, found none; use --device cpu or auto")
    return torch.device(name)
