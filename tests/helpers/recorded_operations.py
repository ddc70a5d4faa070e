"""CUDA graphs without CUDA: operations are recorded once, and then repeated in the memory of the recording.

Python runs only while they are recorded, so everything that it decides or computes, and every number that it passes,
stays as it was. This reveals whether a captured training step depends on any of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.pretend_gpu import PretendGpu, leaves


class _Recording(TorchDispatchMode):
    """A mode that records operations, and the earlier values that they overwrite."""

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
        self.calls.append((func, args, kwargs, result))  # this keeps all tensors alive, so that their ids stay unique
        return result


class RecordedOperations:
    """A `pyro_compvae.training.captured_step.Recorder`.

    Attributes:
        recordings: the number of operations of each recording.
        repeats: the number of repeats of recordings.
    """

    def __init__(self, gpu: PretendGpu) -> None:
        self.gpu = gpu
        self.recordings: list[int] = []
        self.repeats = 0

    def run(self, function: Callable[[], Tensor]) -> Tensor:
        """Call the function."""
        return function()

    def record(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Run the function once, and restore the values that it changed."""
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
