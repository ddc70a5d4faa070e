"""The time that a computation would take if it did nothing but its convolutions and matrix products."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import flop_registry

PRODUCTS = {"convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm"}
"""The operations that count as arithmetic; all others are overhead."""


class Limit(NamedTuple):
    """The arithmetic of a computation.

    flops: floating-point operations; a multiplication with an addition counts as two.
    seconds: the time that they take on this machine, now.
    """

    flops: int
    seconds: float


@dataclass(frozen=True)
class TensorLike:
    """The properties of a tensor that decide how long an operation takes."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def make(self) -> Tensor:
        """Make such a tensor, filled with ones."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device).fill_(1)


class ProductCalls(TorchDispatchMode):
    """A mode that counts the calls of PRODUCTS by function and arguments, and their floating-point operations."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.calls: dict[str, tuple[Callable[..., Any], tuple[Any, ...], int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in PRODUCTS:
            self.flops += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=result)
            like = tree_map_only(Tensor, lambda t: TensorLike(tuple(t.shape), t.stride(), t.dtype, t.device), args)
            key = f"{func} {like}"
            self.calls[key] = (func, like, self.calls[key][2] + 1 if key in self.calls else 1)
        return result


def measure_limit(step: Callable[[], object], min_run_time: float = 0.05) -> Limit:
    """Run a step once to find its products, then time each of these alone, on tensors of the same layout.

    The ratio of these seconds to those of the step says how close the step is to the limit that its products set.

    Args:
        step: the computation.
        min_run_time: the seconds that are spent on every different product.
    """
    with ProductCalls() as products:
        step()
    seconds = 0.0
    for func, like, count in products.calls.values():
        args = tree_map_only(TensorLike, TensorLike.make, like)
        if any(tensor.is_cuda for tensor in tree_leaves(args) if isinstance(tensor, Tensor)):
            seconds += count * _seconds_on_gpu(func, args)
            continue
        timer = Timer("func(*args)", globals={"func": func, "args": args}, num_threads=torch.get_num_threads())
        seconds += count * timer.blocked_autorange(min_run_time=min_run_time).median
    return Limit(products.flops, seconds)


GPU_REPEATS = 10
CACHE_BYTES = 2**28
"""A size in bytes that is larger than the largest cache of a GPU, to flush it."""


def _seconds_on_gpu(func: Callable[..., Any], args: tuple[Any, ...]) -> float:
    """The median seconds of a product whose factors come from the GPU's memory, as in a step, not from its cache."""
    flush = torch.empty(CACHE_BYTES, dtype=torch.int8, device="cuda")
    func(*args)
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(GPU_REPEATS)]
    for start, end in marks:
        flush.zero_()
        start.record()
        func(*args)
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in marks) / 1000
