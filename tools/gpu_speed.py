"""The time of training steps and of evaluations of log p(x, z), and what limits it: a part of `gpu_check`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, get_args

import torch
from torch import Tensor

from pyro_compvae.analysis.benchmark.step_cost import num_observed
from pyro_compvae.evidence.density import LogJoint, value_and_gradient
from pyro_compvae.guide import SceneGuide
from pyro_compvae.guides import MulmonGuide, build_guide
from pyro_compvae.precision import allow_tf32
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import GuideName
from pyro_compvae.training.captured_step import WARM_STEPS, CapturedStep, CudaGraphs
from pyro_compvae.training.elbo import SceneElbo
from pyro_compvae.training.schedules import schedules
from pyro_compvae.training.step import TrainingStep, make_optimiser

GUIDES: tuple[GuideName, ...] = get_args(GuideName)


def make_inputs(
    config: RunConfig, batch: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, ...]:
    """Make images of noise, and viewpoints if there are several views; they are the same on every device."""
    generator = torch.Generator().manual_seed(3)
    H, V = config.data.image_size, config.data.num_views
    multi_view = config.multi_view
    x = torch.rand((batch, V, 3, H, H) if multi_view else (batch, 3, H, H), generator=generator, dtype=torch.float64)
    viewpoints = (torch.rand(batch, V, 3, generator=generator, dtype=torch.float64),) if multi_view else ()
    return tuple(argument.to(device, dtype) for argument in (x, *viewpoints))


def make_guide(config: RunConfig, device: torch.device, dtype: torch.dtype = torch.float32) -> SceneGuide:
    """Make the guide of a configuration in train mode, with the same weights on every device."""
    torch.manual_seed(0)
    guide = build_guide(config).to(device, dtype)
    guide.train()
    guide.kl_weight = config.training.kl_weight
    return guide


def make_step(config: RunConfig, device: torch.device, batch: int, captured: bool = False) -> Callable[[], Tensor]:
    """Make a training step like those of `Trainer`, on images of noise.

    MulMON observes the same number of views in all steps (`num_observed`).

    Args:
        config: the run's configuration.
        device: the device to compute on.
        batch: the number of scenes per step.
        captured: whether the step is recorded as a CUDA graph.
    """
    guide = make_guide(config, device)
    arguments = make_inputs(config, batch, device)
    if isinstance(guide, MulmonGuide):
        guide.num_observed = num_observed(config)
    optimiser = make_optimiser(config.training, list(guide.parameters()), capturable=device.type == "cuda")
    step = TrainingStep(guide, SceneElbo()(guide.model, guide), optimiser, config.training.clip_norm)
    take: Any = CapturedStep(step, CudaGraphs(device), schedules(config), _refuse) if captured else step
    take.set(1e-4, {name: getattr(guide, name) for name in schedules(config)})
    return lambda: take(*arguments)


def _refuse(message: str) -> None:
    raise RuntimeError(message)


def timed(step: Callable[[], Any], on_gpu: bool, repeats: int = 12, warm: int = 4) -> dict[str, float]:
    """Milliseconds per step, one after the other as in training, and those that the host takes to launch one."""
    for _ in range(warm):
        step()
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    wait()
    host = []
    started = time.perf_counter()
    for _ in range(repeats):
        before = time.perf_counter()
        step()
        host.append(time.perf_counter() - before)
    wait()
    return {"ms": 1e3 * (time.perf_counter() - started) / repeats, "host_ms": 1e3 * statistics.median(host)}


def kernels(step: Callable[[], Any]) -> dict[str, Any]:
    """The kernels of a step: their number, their time on the GPU, and the longest ones by name."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        step()
        torch.cuda.synchronize()
    total: dict[str, list[float]] = {}
    for event in found.events() or ():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            count_and_time = total.setdefault(event.name[:90], [0, 0.0])
            count_and_time[0] += 1
            count_and_time[1] += event.device_time / 1e3
    longest = dict(sorted(total.items(), key=lambda item: -item[1][1])[:14])
    count, milliseconds = (sum(entry[i] for entry in total.values()) for i in (0, 1))
    return {"kernels": count, "gpu_ms": milliseconds, "longest": longest}


def step_times(device: torch.device, tiny: bool) -> Iterator[tuple[str, Any]]:
    """Time steps of all guides, eager and as CUDA graphs, with peak memory and kernels."""
    cases: list[tuple[GuideName, str, str, int | None]]
    if tiny:
        cases = [(name, "tiny", "float32", None) for name in GUIDES]
    else:
        cases = [(name, "paper", precision, None) for name in GUIDES for precision in ("float32", "bfloat16")]
        cases += [(name, "default", "float32", None) for name in GUIDES]
        cases += [("iodine", "paper", precision, b) for b in (32, 128) for precision in ("float32", "bfloat16")]
    for name, size, precision, batch in cases:
        config = preset(size, name).replace({"lnms": True, "training.precision": precision})
        scenes = batch or config.training.batch_size
        allow_tf32(True)
        yield f"{name} {size} {precision}, batch {scenes}", or_why_not(_step_times, config, device, scenes)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _step_times(config: RunConfig, device: torch.device, batch: int) -> dict[str, Any]:
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    eager = make_step(config, device, batch)
    row: dict[str, Any] = {"eager": timed(eager, on_gpu)}
    if not on_gpu:
        return row
    row |= {"peak_mib": torch.cuda.max_memory_allocated() / 2**20, "kernels": kernels(eager)}
    del eager
    for benchmark in (False, True):
        torch.backends.cudnn.benchmark = benchmark
        way = "graph, cudnn.benchmark" if benchmark else "graph"
        row[way] = or_why_not(_replay_time, config, device, batch)
    torch.backends.cudnn.benchmark = False
    return row


def _replay_time(config: RunConfig, device: torch.device, batch: int) -> dict[str, float]:
    captured = make_step(config, device, batch, captured=True)
    return timed(captured, on_gpu=True, repeats=30, warm=WARM_STEPS + 2) | {"loss": float(captured()[0])}


def or_why_not(measure: Callable[..., Any], *arguments: Any) -> Any:
    """The measurement, or any error as one line, so that the other cases are measured too."""
    try:
        return measure(*arguments)
    except Exception as error:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return f"{type(error).__name__}: {str(error)[:300]}"


def graphs_equal_eager(device: torch.device, tiny: bool) -> dict[str, Any]:
    """The losses of captured steps and of eager ones, from the same weights and the same random numbers."""
    found: dict[str, Any] = {}
    for name in GUIDES:
        config, losses = preset("tiny", name).replace({"lnms": True}), {}
        for way in ("eager", "captured"):
            step = make_step(config, device, config.training.batch_size, captured=way == "captured")
            torch.manual_seed(11)
            losses[way] = [float(step()[0]) for _ in range(WARM_STEPS + 5)]
        found[name] = losses
    return found


def evidence_times(device: torch.device, tiny: bool) -> Iterator[tuple[str, Any]]:
    """Time log p(x, z) and its gradient: microseconds per draw and scene, and peak memory, by draws held at a time."""
    cases: list[tuple[GuideName, str]] = [("iodine", "tiny")] if tiny else [(g, s) for g in GUIDES for s in SIZES]
    for name, size in cases:
        config = preset(size, name)
        log_joint = LogJoint(make_guide(config, device).eval().model, *make_inputs(config, 16, device))
        for chunk in (4,) if tiny else (4, 16, 64):
            yield f"{name} {size}, {chunk} draws of 16 scenes", or_why_not(_evidence_time, log_joint, chunk, device)


SIZES = ("default", "paper")


def _evidence_time(log_joint: LogJoint, chunk: int, device: torch.device) -> dict[str, Any]:
    on_gpu = device.type == "cuda"
    shape = (chunk, log_joint.num_scenes, *log_joint.event_shape)
    z = torch.randn(shape, dtype=torch.float64, device=device)
    at_once = log_joint.draws_that_fit(chunk)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    ms = timed(lambda: value_and_gradient(log_joint, z, chunk), on_gpu, repeats=4, warm=2)["ms"]
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
    return {"us_per_draw_and_scene": 1e3 * ms / (chunk * log_joint.num_scenes), "peak_gib": peak, "at_once": at_once}
