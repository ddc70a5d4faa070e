"""Training steps that are sent to a GPU in one piece.

A step of these models is some thousands of small kernels, whose launches take several times as long as their work. A
CUDA graph holds all of them, forward, backward, clipping and the optimiser's step, and is launched at once. It repeats
the recorded operations in the memory in which they were recorded, so everything that changes from step to step has to
lie there: images are copied into it, and the learning rate and the weights of the objective are numbers on the GPU. The
host also makes decisions, such as how many views MulMON observes; there is one graph for each decision.
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
"""Number of ordinary steps before one is recorded: in the first steps libraries choose their algorithms, and the
optimiser makes its state. They train as all other steps do."""


class Recorder(Protocol):
    """An object that records the operations of a function."""

    def run(self, function: Callable[[], Tensor]) -> Tensor:
        """Call the function on the stream of the recording, without recording it."""

    def record(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Record the function: returns a call that repeats its operations, and the tensor that will hold its result."""


class CudaGraphs:
    """A recorder of CUDA graphs, which share their memory, so only one of them may run at a time."""

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
        """Record the function in a graph: returns the graph's launch, and the tensor of its result."""
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self.device)
        generator = torch.cuda.default_generators[self.device.index]
        random = generator.clone_state()
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                result = function()
        except RuntimeError as error:
            # After a failed recording torch stays on its stream, and the generator and the allocator go on as if
            # operations were still being recorded.
            torch.cuda.set_stream(current)
            generator.graphsafe_set_state(random)
            with suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(self.device.index, self.pool)
                torch._C._cuda_releasePool(self.device.index, self.pool)
            while isinstance(error.__context__, RuntimeError):  # ending the recording raises another error
                error = error.__context__
            raise error from None
        return graph.replay, result


class CapturedStep:
    """A `TrainingStep` that is recorded once for every plan of the guide and then repeated.

    It computes the same numbers, except that weights of the objective that change are rounded to float32. If a step
    cannot be recorded, or the GPU has no room for it, this step and all that follow are ordinary ones.

    Recorded steps see changes of weights and states only if these are made in place. Restore checkpoints, and move or
    freeze parameters, before the first step.

    Args:
        step: the step to record.
        recorder: the recorder.
        changing: the names of the weights of the objective that change in the course of training.
        report: called with one line that says why steps are not recorded.
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
        """Do what `TrainingStep.set` does, with the weights that change as numbers on the device."""
        for name, weight in self._weights.items():
            weight.fill_(weights[name])
        self.step.set(learning_rate, {**weights, **self._weights})

    def __call__(self, *arguments: Tensor) -> Tensor:
        """Take the step as `TrainingStep` does.

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
                    self.step.optimiser.zero_grad(set_to_none=True)  # gradients belong to the graph's memory
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
        """Make the weights of the objective plain numbers again, as other users of the guide expect."""
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
