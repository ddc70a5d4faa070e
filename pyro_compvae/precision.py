"""The precision of convolutions and products: rounded in training where that is allowed, but not for densities.

Wherever one or the other is decided, denormal numbers count as 0.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import nn

from pyro_compvae.errors import ArgumentError


def allow_tf32(allow: bool) -> None:
    """Allow or forbid GPUs to round the factors of float32 products to ten bits, which only training may do."""
    for owner, name, rounded, exact in _settings():
        if owner not in ON_CPU:
            setattr(owner, name, rounded if allow else exact)


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute products of float32 in float32, on CPU and GPU, whatever training or the user allows.

    This is a context, and a decorator for functions that evaluate log-densities or their gradients: TF32 and bfloat16
    move log p(x, z) by a tenth of a nat.
    """
    with _settings_restored():
        for owner, name, _, exact in _settings():
            setattr(owner, name, exact)
        yield


@contextmanager
def rounded_products() -> Iterator[None]:
    """Allow TF32 (`allow_tf32`) for as long as training takes, then restore the settings of the calling program."""
    with _settings_restored():
        allow_tf32(True)
        yield


@contextmanager
def _settings_restored() -> Iterator[None]:
    before = [(owner, name, getattr(owner, name)) for owner, name, _, _ in _settings()]
    with denormals_flushed():
        try:
            yield
        finally:
            for owner, name, value in before:
                setattr(owner, name, value)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """A context in which this thread rounds denormal numbers (below 1.2e-38 in float32) to 0, where the CPU can.

    Masks far from their slots, and their gradients, become that small, and CPUs compute with such numbers a hundred
    times as slowly. Flushed, a gradient of IODINE's log p(x, z) on sprites takes 0.57 of the time, and a training step
    on Tetrominoes 0.6, once objects have places; the numbers are the same to all digits looked at. Threads of torch's
    pool do what held when they were started, so that with several threads less may be gained.
    """
    before = sys.float_info.min * 0.5 == 0  # torch has no function that tells
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


_GPU: Any = torch.backends.cudnn
_CPU: Any = torch.backends.mkldnn
ON_CPU: tuple[Any, ...] = tuple(getattr(_CPU, part) for part in ("matmul", "conv", "rnn") if hasattr(_CPU, part))
"""The objects that hold torch's settings for the CPU, since torch 2.9."""


def _settings() -> list[tuple[Any, str, Any, Any]]:
    """Where torch keeps the precision of products: owner, attribute, and its values for rounded and for exact."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # before torch 2.9
        return [(owner, "allow_tf32", True, False) for owner in (torch.backends.cuda.matmul, _GPU)]
    owners: tuple[Any, ...] = (torch.backends.cuda.matmul, _GPU.conv, _GPU.rnn, *ON_CPU)
    return [(owner, "fp32_precision", "tf32", "ieee") for owner in owners]


Method = TypeVar("Method", bound=Callable[..., Any])


def own_precision(method: Method) -> Method:
    """Decorate a method of a module, so that an autocast around it has no effect: its networks choose their precision.

    Programs do this for their calls; methods that users call directly, such as posteriors and likelihoods, need it too.
    A log-likelihood rounded to bfloat16 would be wrong by several nats.
    """

    @wraps(method)
    def wrapped(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            return method(self, *args, **kwargs)

    return wrapped  # type: ignore[return-value]


def convolution_precision(device: torch.device, precision: str) -> torch.autocast:
    """A context in which convolutions compute in "float32" or "bfloat16"; weights and everything else stay as they are.

    Raises:
        ValueError: for any other precision.
    """
    if precision not in ("float32", "bfloat16"):
        raise ArgumentError(f"precision: expected float32 or bfloat16, got {precision!r}")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
