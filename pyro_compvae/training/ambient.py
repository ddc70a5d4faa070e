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
        tiny_numbers_flushed(),
    ):
        yield


@contextmanager
def tiny_numbers_flushed() -> Iterator[None]:
    """A context in which this thread rounds denormal numbers (below 1.2e-38 in float32) to 0, where the CPU can.

    Masks of slots far from a pixel, and their gradients, become that small, and CPUs compute with such numbers a
    hundred times as slowly: a step on Tetrominoes takes 1.7 times as long with them, once objects have places.
    """
    before = _are_flushed()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _are_flushed() -> bool:
    """Whether denormal numbers count as 0 now, for which torch has no function."""
    return float(torch.tensor(1e-39, dtype=torch.float32, device="cpu") * 1.0) == 0
