"""How many threads a training step needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pyro_compvae.runs.config import RunConfig

SMALL = 16_000_000
"""Activations of the decoder per step, on the grid of the image, up to which one thread is taken to be as fast as
several: IODINE has 4 million in the preset default on sprites and 15 on Tetrominoes, and 29 and more in the preset
paper."""


def threads_for(config: RunConfig, num_workers: int = 1) -> int:
    """One thread for small steps, and as many as torch would take (OMP_NUM_THREADS, or one per core) for others.

    The operations of a small step are shorter than it takes to divide them, and a thread that waits for the next one
    spins: on a machine whose cores are all busy a step of the preset default took fifteen times as long with two.
    """
    pixels = config.training.batch_size * config.num_slots * config.data.image_size**2 // num_workers
    return 1 if pixels * sum(config.decoder.channels) <= SMALL else torch.get_num_threads()


def threads_in_words(threads: int) -> str:
    """A number of threads as a text."""
    return f"{threads} thread{'s' if threads > 1 else ''}"


@contextmanager
def threads_restored() -> Iterator[None]:
    """A context that may set the number of torch's threads, which is as before at the end."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
