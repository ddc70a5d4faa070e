"""CUDA graphs without CUDA: operations recorded once, then repeated in the memory that they were recorded in.

Python runs while they are recorded and never again, so that whatever it decides or computes, and every number that it
passes, stays as it was: what a captured training step must not depend on is found here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.pretend_gpu import PretendGpu, leaves


class _Recording(TorchDispatchMode):
    """The operations of what runs inside, and what they overwrote of what was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.made: set[int] = set()
        self.overwritten: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for given, schema in zip(args, func._schema.arguments, strict=False):
            if schema.alias_info is not None and schema.alias_info.is_write:
                for tensor in leaves(given):
                    if isinstance(tensor, Tensor) and id(tensor) not in self.made | self.overwritten.keys():
                        self.overwritten[id(tensor)] = tensor, tensor.clone()
        result = func(*args, **kwargs)
        self.made |= {id(tensor) for tensor in leaves(result)} - {id(tensor) for tensor in leaves(args)}
        self.calls.append((func, args, kwargs, result))  # which keeps all tensors alive, and their ids their own
        return result


class RecordedOperations:
    """A `pyro_compvae.training.captured_step.Recorder`.

    Attributes:
        recordings: how many operations each recording has.
        repeats: how often recordings were repeated.
    """

    def __init__(self, gpu: PretendGpu) -> None:
        self.gpu = gpu
        self.recordings: list[int] = []
        self.repeats = 0

    def run(self, function: Callable[[], Tensor]) -> Tensor:
        """As it is."""
        return function()

    def record(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Run it once, and put back what it changed."""
        random = self.gpu.random, torch.get_rng_state()
        waited = self.gpu.syncs.total(), self.gpu.copies.total()
        with _Recording() as recording:
            result = function()
        if waited != (self.gpu.syncs.total(), self.gpu.copies.total()):
            raise RuntimeError(f"operation not permitted when stream is capturing: {self.gpu.syncs} {self.gpu.copies}")
        with torch.no_grad():
            for tensor, before in recording.overwritten.values():
                tensor.copy_(before)
        self.gpu.random = random[0]
        torch.set_rng_state(random[1])
        self.recordings.append(len(recording.calls))

        def repeat() -> None:
            self.repeats += 1
            with torch.no_grad():
                for func, args, kwargs, results in recording.calls:
                    for place, value in zip(leaves(results), leaves(func(*args, **kwargs)), strict=True):
                        if isinstance(place, Tensor) and place is not value:
                            place.copy_(value)

        return repeat, result
