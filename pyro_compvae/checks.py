"""Checks of arguments and of configurations, whose messages say what was expected and what came."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor

from pyro_compvae.errors import ArgumentError, ConfigError

LARGEST = 1e12
"""The largest number in a configuration for which no smaller limit is named, such as a number of steps."""

MAX_DIGITS = 12
"""The largest number of digits of a step."""

MAX_WIDTH, MAX_LAYERS = 1 << 16, 64
"""The largest width of a layer, and the largest number of layers of one kind."""


def check_counts(**counts: int) -> None:
    """Refuse counts below one.

    Raises:
        ArgumentError: for a count below 1, with the name of its argument.
    """
    for name, value in counts.items():
        if not value >= 1:  # a comparison that NaN fails too
            raise ArgumentError(f"{name}: expected at least 1, got {value}")


def is_step(text: str) -> bool:
    """Whether a text from a file of a run is the number of a step, which may be converted."""
    return text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS


def check_seed(seed: int) -> None:
    """Refuse seeds outside of 0 to 2³² − 1, which all generators of random numbers take.

    Raises:
        ArgumentError: for another number.
    """
    if not 0 <= seed < 1 << 32:
        raise ArgumentError(f"seed: expected a whole number from 0 to {(1 << 32) - 1}, got {seed}")


def describe(tensor: Tensor) -> str:
    """Shape and type of a tensor as messages show them: (2, 3) float32."""
    return f"{tuple(tensor.shape)} {name_of(tensor.dtype)}"


def name_of(dtype: torch.dtype) -> str:
    """The name of a type without "torch.", such as float32."""
    return str(dtype).removeprefix("torch.")


def require(condition: bool, message: str) -> None:
    """Refuse a configuration with this message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def widths(config: Any, *names: str, least: int = 1) -> None:
    """Refuse fields that are not lists of positive widths, or that are longer or wider than any network."""
    for name in names:
        given = getattr(config, name)
        require(
            len(given) >= least and min(given, default=1) > 0,
            f"{type(config).__name__}.{name}: expected one or more positive widths, got {given}",
        )
        require(
            len(given) <= MAX_LAYERS and max(given, default=1) <= MAX_WIDTH,
            f"{type(config).__name__}.{name}: expected at most {MAX_LAYERS} widths of at most {MAX_WIDTH}, got "
            f"{len(given)} of up to {max(given, default=0)}",
        )


def not_negative(config: Any, *names: str, most: float = LARGEST) -> None:
    """Refuse fields below zero, or above a limit."""
    for name in names:
        value = getattr(config, name)
        require(value >= 0, f"{type(config).__name__}.{name}: expected zero or more, got {value}")
        at_most(config, most, name)


def positive(config: Any, *names: str, most: float = LARGEST) -> None:
    """Refuse fields that are not above zero, or are above a limit."""
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{type(config).__name__}.{name}: expected a positive number, got {value}")
        at_most(config, most, name)


def at_most(config: Any, most: float, *names: str) -> None:
    """Refuse fields whose magnitude is above a limit, or that are NaN."""
    for name in names:
        value = getattr(config, name)
        require(
            abs(value) <= most,
            f"{type(config).__name__}.{name}: expected at most {most:,.0f} in magnitude, got {value}",
        )


def one_of(config: Any, name: str, choices: Any) -> None:
    """Refuse a field whose value is not among those of a ``Literal``."""
    value, known = getattr(config, name), get_args(choices)
    require(
        value in known, f"{type(config).__name__}.{name}: expected one of {', '.join(map(str, known))}, got {value!r}"
    )
