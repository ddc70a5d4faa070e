"""How exactly products of float32 are computed: rounded in training, where that is allowed, and never for densities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def allow_tf32(allow: bool) -> None:
    """Whether GPUs may round the factors of float32 products to ten bits: for training, not for importance weights."""
    for owner, name, rounded, exact in _settings():
        if owner not in ON_CPU:
            setattr(owner, name, rounded if allow else exact)


@contextmanager
def exact_products() -> Iterator[None]:
    """Products of float32 in float32, on CPU and GPU, whatever training or the user allows.

    A context, and a decorator of functions that evaluate log-densities or their gradients: TF32 and bfloat16 move
    log p(x, z) by a tenth of a nat.
    """
    with _settings_restored():
        for owner, name, _, exact in _settings():
            setattr(owner, name, exact)
        yield


@contextmanager
def rounded_products() -> Iterator[None]:
    """`allow_tf32` for as long as training takes; whatever the program around has set is there again afterwards."""
    with _settings_restored():
        allow_tf32(True)
        yield


@contextmanager
def _settings_restored() -> Iterator[None]:
    before = [(owner, name, getattr(owner, name)) for owner, name, _, _ in _settings()]
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


_GPU: Any = torch.backends.cudnn
_CPU: Any = torch.backends.mkldnn
ON_CPU: tuple[Any, ...] = tuple(getattr(_CPU, part) for part in ("matmul", "conv", "rnn") if hasattr(_CPU, part))
"""What holds torch's settings for the CPU, from torch 2.9 on."""


def _settings() -> list[tuple[Any, str, Any, Any]]:
    """Where torch keeps the precision of products: owner, attribute, and its values for rounded and exact ones."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # before torch 2.9
        return [(owner, "allow_tf32", True, False) for owner in (torch.backends.cuda.matmul, _GPU)]
    owners: tuple[Any, ...] = (torch.backends.cuda.matmul, _GPU.conv, _GPU.rnn, *ON_CPU)
    return [(owner, "fp32_precision", "tf32", "ieee") for owner in owners]
