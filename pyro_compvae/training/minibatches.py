"""The minibatches: which scenes each step is trained on."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def minibatch(num_scenes: int, batch_size: int, seed: int, step: int) -> Tensor:
    """Indices of a step's minibatch. An epoch is a permutation, of which an incomplete last batch is dropped.

    It is a pure function of the step, so that a resumed run sees the same batches.
    """
    per_epoch = max(num_scenes // batch_size, 1)
    epoch, position = divmod(step, per_epoch)
    return _order(num_scenes, seed, epoch)[position * batch_size : (position + 1) * batch_size].clone()


@lru_cache(maxsize=2)
def _order(num_scenes: int, seed: int, epoch: int) -> Tensor:
    """The order of the scenes in an epoch, which is cached so that not every step draws it."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    with torch.inference_mode(False):  # the tensor is kept for later calls, which may train
        return torch.randperm(num_scenes, generator=generator)
