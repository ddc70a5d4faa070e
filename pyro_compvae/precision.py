"""How exactly a GPU multiplies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def allow_tf32(allow: bool) -> None:
    """Whether GPUs may round the factors of float32 products to ten bits: for training, not for importance weights."""
    torch.backends.cuda.matmul.allow_tf32 = allow
    torch.backends.cudnn.allow_tf32 = allow


@contextmanager
def exact_products() -> Iterator[None]:
    """Products of float32 in float32, whatever training allows: rounding moves log p(x, z) by a tenth of a nat.

    A context, and a decorator of functions that evaluate log-densities or their gradients.
    """
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    allow_tf32(False)
    try:
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed
