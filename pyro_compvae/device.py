"""Where to compute."""

from __future__ import annotations

import os

import torch

from pyro_compvae.config import ConfigError


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one. Each worker of ``torchrun`` has a GPU of its own.

    Raises:
        ConfigError: for "cuda" on a machine without a GPU, or with fewer GPUs than workers.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device: expected a machine with a GPU for cuda, found none; use --device cpu or auto")
    if name == "cpu":
        return torch.device(name)
    index, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= count:
        raise ConfigError(f"--nproc-per-node: expected at most {count}, the GPUs of this machine; got more workers")
    return torch.device(name, index)


def allow_tf32(allow: bool) -> None:
    """Whether GPUs may round the factors of float32 products to ten bits: for training, not for importance weights."""
    torch.backends.cuda.matmul.allow_tf32 = allow
    torch.backends.cudnn.allow_tf32 = allow
