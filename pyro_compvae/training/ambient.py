"""Torch's global state, which training changes and gives back."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pyro_compvae.device import torch_defaults
from pyro_compvae.precision import rounded_products
from pyro_compvae.training.threads import threads_restored


@contextmanager
def torch_as_it_was(device: torch.device) -> Iterator[None]:
    """A context with torch's own defaults, which restores them, random numbers, threads and warnings at the end."""
    with (
        torch_defaults(),
        torch.enable_grad(),
        rounded_products(),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        warnings.catch_warnings(),
        threads_restored(),
    ):
        yield
