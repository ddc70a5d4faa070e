"""Tables of a benchmark's measurements for people."""

from __future__ import annotations

from typing import Any

from pyro_compvae.analysis.benchmark.step_cost import (
    BASELINE,
    num_observed,
)
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import GuideName


def report(content: dict[str, Any]) -> str:
    """The measurements as text with tables."""
    machine = content["machine"]
    lines = [
        f"{machine['processor']}, {machine['threads']} CPU threads, torch {machine['torch']}, "
        f"load average {machine['load_average']} at the start",
        "Compare the ratios: absolute times depend on the machine and its other work. Memory is the peak beyond",
        "what the process held before its first step; on a CPU it includes about 20 MiB of library code. The limit is",
        "the time of the step's convolutions and matrix products alone, with the same shapes, in the same process.",
    ]
    for row in content["steps"]:
        if row["variant"] == BASELINE:
            lines += ["", describe_case(row["size"], row["guide"])]
            heads = ("step [ms]", "speed-up", "peak [MiB]", "of plain", "GFLOP", "of limit")
            lines += [" " * 24 + "".join(f"{head:>12}" for head in heads)]
        numbers = f"{row['step_ms']:12.1f}{row['speed_up']:11.2f}×{row['memory_mib']:12.1f}{row['memory_share']:12.0%}"
        numbers += f"{row['gflop']:12.1f}{row['limit_share']:12.0%}"
        lines += [f"{row['variant']:24}{numbers}"]
    if content["growth"]:
        lines += ["", f"iodine, {content['growth'][0]['size']}: x grows, and time, peak memory and products with x^a"]
        lines += [f"{'':24}{'x':>12}{'values':>16}{'a, time':>12}{'a, memory':>12}{'a, FLOP':>12}"]
    for row in content["growth"]:
        values = " ".join(map(str, row["values"]))
        exponents = "".join(f"{row[f'{name}_exponent']:12.2f}" for name in ("step_ms", "memory_mib", "gflop"))
        lines += [f"{row['variant']:24}{row['axis']:>12}{values:>16}{exponents}"]
    samples = content["importance_sampling"]
    if samples:
        lines += ["", "importance sampling of one scene, IODINE's model; q̄ is the exact permanent, in ours"]
        lines += [f"{'':30}{'L':>8}{'samples/s':>12}{'q̄, of time':>12}{'peak [MiB]':>12}"]
    for row in samples:
        numbers = f"{row['num_samples'] / row['seconds']:12.1f}{row['permanent_share']:12.1%}{row['memory_mib']:12.1f}"
        lines += [f"{row['size'] + ', ' + row['way']:30}{row['num_samples']:8,}{numbers}"]
    return "\n".join(lines)


def describe_case(size: str, guide: GuideName) -> str:
    """A line with a preset's sizes."""
    config = preset(size, guide)
    side = config.data.image_size
    parts = [
        f"{side}×{side} pixels",
        f"K {config.num_slots}",
        f"D {config.latent_dim}",
        f"decoder {'-'.join(map(str, config.decoder.channels))}",
        f"batch {config.training.batch_size}",
    ]
    if config.refinement is not None:
        parts += [f"T {config.refinement.num_iterations}"]
    if config.views is not None:
        parts += [f"{config.data.num_views} views, {num_observed(config)} of them observed"]
    return f"{guide}, {size}: {', '.join(parts)}"
