"""A limit on the weights of networks while they are built, so that no configuration fills the memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from pyro_compvae.errors import ConfigError

MAX_WEIGHTS = 1 << 28
"""The largest number of weights of a guide and its model, 1 GiB in float32; the paper's have about a million."""


class WeightLimit(TorchFunctionMode):
    """A context in which layers get no more weights than `MAX_WEIGHTS` in all; it sees every `torch.empty`.

    Raises:
        ConfigError: before the memory of the layer that is too much is taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left = MAX_WEIGHTS

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.empty:
            size = args[0] if args and isinstance(args[0], Sequence) else args
            self.left -= math.prod(size)
            if self.left < 0:
                raise ConfigError(
                    f"configuration: expected networks of at most {MAX_WEIGHTS:,} weights, got one with a layer of "
                    f"shape {tuple(size)}. Lower the widths of its layers, or the size of its images."
                )
        return func(*args, **(kwargs or {}))
