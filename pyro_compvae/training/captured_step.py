"""Training steps that a GPU gets in one piece.

A step of these models is some thousands of small kernels, whose launches take several times as long as their work. A
CUDA graph holds all of them, forward, backward, clipping and the optimiser's step, and is launched at once. It computes
what was recorded in the memory where it was recorded, so everything that changes from step to step has to lie there:
images are copied into it, the learning rate and the weights of the objective are numbers on the GPU. What the host
decides, such as how many views MulMON observes, gets a graph for each decision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from typing import Protocol

import torch
from torch import Tensor

from pyro_compvae.errors import ArgumentError
from pyro_compvae.training.step import TrainingStep

WARM_STEPS = 3
"""Steps that are taken as they are before one is recorded: libraries choose their algorithms in the first ones, and the
optimiser makes its state. They are steps of the training like all others."""


class Recorder(Protocol):
    """What records the operations of a function."""

    def run(self, function: Callable[[], Tensor]) -> Tensor:
        """Call the function where the recording will take place, without recording."""

    def record(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """What repeats the function's operations, and where they leave its result. Nothing is computed yet."""


class CudaGraphs:
    """Records CUDA graphs, which share their memory: no two of them run at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        self.stream = torch.cuda.Stream(self.device)
        self.pool = torch.cuda.graph_pool_handle()

    def run(self, function: Callable[[], Tensor]) -> Tensor:
        """Call the function on the stream of the recordings."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = function()
        current.wait_stream(self.stream)
        return result

    def record(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """A graph's launch, and the memory of its result."""
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self.device)
        generator = torch.cuda.default_generators[self.device.index]
        random = generator.clone_state()
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                result = function()
        except RuntimeError as error:
            # A recording that has failed does not end as others do: torch stays on its stream, and the generator and
            # the allocator go on as if operations were being recorded.
            torch.cuda.set_stream(current)
            generator.graphsafe_set_state(random)
            with suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(self.device.index, self.pool)
                torch._C._cuda_releasePool(self.device.index, self.pool)
            while isinstance(error.__context__, RuntimeError):  # the end of a recording complains of its beginning
                error = error.__context__
            raise error from None
        return graph.replay, result


class CapturedStep:
    """`TrainingStep`, recorded once for every plan of the guide and then repeated.

    It computes the same numbers, but for weights of the objective that change, which are rounded to float32. Where a
    step cannot be recorded, or the GPU has no room for it, this one and those that follow are taken as they are.

    What is changed between steps, but for weights and states where they lie, has no effect on those recorded: restore
    checkpoints, move and freeze parameters before the first one.

    Args:
        step: what to record.
        recorder: with what.
        changing: the weights of the objective that change in the course of training.
        report: told in a line why steps are not recorded.
    """

    def __init__(
        self, step: TrainingStep, recorder: Recorder, changing: Iterable[str], report: Callable[[str], None]
    ) -> None:
        self.step = step
        self.recorder: Recorder | None = recorder
        self.report = report
        device = next(step.guide.parameters()).device
        self._weights = {name: torch.zeros((), device=device) for name in changing}
        self._arguments: tuple[Tensor, ...] = ()
        self._taken: Counter[Hashable] = Counter()
        self._recorded: dict[Hashable, tuple[Callable[[], None], Tensor]] = {}

    def set(self, learning_rate: float, weights: Mapping[str, float]) -> None:
        """As `TrainingStep.set`; weights that change are numbers on the device."""
        for name, weight in self._weights.items():
            weight.fill_(weights[name])
        self.step.set(learning_rate, {**weights, **self._weights})

    def __call__(self, *arguments: Tensor) -> Tensor:
        """Take the step, as `TrainingStep` does.

        Raises:
            ValueError: for arguments of another shape or type than those of the first step.
        """
        self._check(arguments)
        with self.step.guide.planned(*arguments) as plan:
            if self.recorder is not None and plan not in self._recorded:
                try:
                    if self._taken[plan] < WARM_STEPS:
                        self._taken[plan] += 1
                        return self.recorder.run(lambda: self.step(*arguments))
                    self.step.optimiser.zero_grad(set_to_none=True)  # gradients belong to the memory of the graph
                    self._recorded[plan] = self.recorder.record(lambda: self.step(*self._arguments))
                except RuntimeError as error:
                    if self._taken[plan] < WARM_STEPS and not isinstance(error, torch.OutOfMemoryError):
                        raise
                    self._give_up(error)
            if self.recorder is None:
                return self.step(*arguments)
        for place, argument in zip(self._arguments, arguments, strict=True):
            place.copy_(argument)
        repeat, result = self._recorded[plan]
        repeat()
        return result.clone()

    def finish(self) -> None:
        """Make the weights of the objective numbers again, as who goes on with the guide expects them."""
        for name, weight in self._weights.items():
            setattr(self.step.guide, name, float(weight))

    def _check(self, arguments: tuple[Tensor, ...]) -> None:
        if not self._arguments:
            self._arguments = tuple(argument.clone() for argument in arguments)
        expected, found = ([(tuple(t.shape), t.dtype) for t in tensors] for tensors in (self._arguments, arguments))
        if expected != found:
            raise ArgumentError(f"arguments: expected those of the steps before, {expected}, got {found}")

    def _give_up(self, error: RuntimeError) -> None:
        self.recorder = None
        self._recorded.clear()
        self.step.optimiser.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        reason = str(error).strip().partition("\n")[0]
        self.report(f"cuda_graph: every step is launched kernel by kernel, none could be recorded ({reason})")
