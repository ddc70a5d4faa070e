"""Time and memory of training steps and importance samples: ``python experiments/benchmark.py --quick``.

Every measurement runs in a fresh process, because peak memory is a process's. The rounds go over all variants in turn,
so that a busy machine slows all of them alike. MulMON draws how many views it observes; here all steps of all variants
observe the same number, the median of what it may draw, so that their times can be compared.

The file that --json writes has

    machine                     processor, threads, torch, load_average (of the last minute, at the start)
    rounds                      processes per variant
    steps                       a list of size, guide, variant, device, step_ms and
                                memory_mib (medians), speed_up and memory_share (relative to the plain variant),
                                gflop (billions of floating-point operations of a step's convolutions and matrix
                                products) and limit_share (of the step's time, what these take alone: 1 is the limit)
    growth                      a list of size, guide, variant, axis, values, step_ms, memory_mib and gflop (lists), and
                                their exponents (step_ms_exponent, ...); empty without IODINE
    importance_sampling         a list of size, way, num_samples, device, seconds, permanent_share (of seconds) and
                                memory_mib; empty without IODINE
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from tqdm import tqdm

from pyro_compvae.analysis.benchmark import evidence_cost
from pyro_compvae.analysis.benchmark.evidence_cost import OURS_WAY, WAYS, SamplingCase
from pyro_compvae.analysis.benchmark.growth import AXES, growth_cases, growth_row
from pyro_compvae.analysis.benchmark.step_cost import (
    BASELINE,
    COMPILED,
    OURS,
    VARIANTS,
    Case,
    Measurement,
    measure_in_new_process,
    num_observed,
)
from pyro_compvae.cli import run
from pyro_compvae.device import choose_device
from pyro_compvae.errors import ConfigError
from pyro_compvae.runs.environment import processor
from pyro_compvae.runs.files import write_text
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import GuideName

NUM_SAMPLES = 40
"""Importance samples that are timed at every size."""

GROWTH_SAMPLES = (100, 10_000)
"""L in the table of memory against L, which is of the last size: it takes minutes at "paper"."""


@dataclass
class Arguments:
    """Compare ways to compute a training step and importance samples: time, peak memory, and what memory grows with."""

    quick: bool = False
    """Only the tiny size, whatever --sizes: shows that everything runs, says nothing about real sizes."""
    json: Path | None = None
    """File for the numbers."""
    rounds: int = 1
    """Processes per variant; one round of everything takes some half an hour on two cores."""
    compile: bool = False
    """Whether to measure compiled networks too."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one."""
    guides: tuple[GuideName, ...] = ("iodine", "monet", "mulmon")
    """Guides to measure."""
    sizes: tuple[Literal["paper", "default"], ...] = ("paper", "default")
    """Presets to measure; growth is of the last one."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return run(Arguments, benchmark, arguments)


def benchmark(args: Arguments) -> None:
    """Measure everything, print it, and keep it where --json says."""
    check(args)
    content = compare_variants(args)
    print(report(content))
    if args.json is not None:
        write_text(args.json, json.dumps(content, indent=2) + "\n")


def check(args: Arguments) -> None:
    """Refuse, before minutes of measuring, what cannot work.

    Raises:
        ConfigError: naming the argument.
    """
    if args.rounds < 1:
        raise ConfigError(f"--rounds: expected at least 1, got {args.rounds}")
    for name, given in (("guides", args.guides), ("sizes", args.sizes)):
        if not given or len(set(given)) < len(given):
            raise ConfigError(f"--{name}: expected one or more, each once; got {' '.join(given) or 'none'}")
    if args.json is not None and not args.json.parent.is_dir():
        raise ConfigError(f"--json: expected a file in an existing folder, got {args.json}")
    choose_device(args.device)


def compare_variants(args: Arguments) -> dict[str, Any]:
    """Measure everything; what --json writes."""
    sizes = ("tiny",) if args.quick else args.sizes
    device = choose_device(args.device).type
    machine = describe_machine(device)
    variants = [variant for variant in VARIANTS if args.compile or variant != COMPILED]
    tables = [[Case(size, guide, variant, device) for variant in variants] for size in sizes for guide in args.guides]
    # MulMON refines each view in the same way and would take several times as long to show the same.
    growth = {
        (variant, axis): growth_cases(sizes[-1], "iodine", variant, axis, device)
        for variant in (BASELINE, OURS)
        for axis in (("T",) if args.quick else AXES)
        if "iodine" in args.guides
    }
    cases = [case for table in tables for case in table]
    grown = [case for some in growth.values() for case in some]
    results: dict[Case, list[Measurement]] = {case: [] for case in (*cases, *grown)}
    jobs = [*cases * args.rounds, *grown]
    # Numbers of the tiny size mean nothing, so two processes may disturb each other there.
    with ThreadPoolExecutor(2 if args.quick else 1) as pool:
        measurements = pool.map(measure_in_new_process, jobs)
        for case, measured in zip(jobs, tqdm(measurements, "measuring", len(jobs), unit="process"), strict=True):
            results[case].append(measured)
    rows = [row for table in tables for row in compare({case: results[case] for case in table})]
    curves = [
        growth_row(
            some[0],
            axis,
            {
                "step_ms": [step_ms(results[case]) for case in some],
                "memory_mib": [peak_mib(results[case]) for case in some],
                "gflop": [results[case][0].flops / 1e9 for case in some],
            },
        )
        for (_, axis), some in growth.items()
    ]
    return {
        "machine": machine,
        "rounds": args.rounds,
        "steps": rows,
        "growth": curves,
        "importance_sampling": sample(sizes, device) if "iodine" in args.guides else [],
    }


def sample(sizes: tuple[str, ...], device: str) -> list[dict[str, Any]]:
    """Importance samples of one scene, in one process each: both ways at every size, and many of ours at the last."""
    cases = [SamplingCase(size, way, NUM_SAMPLES, device) for size in sizes for way in WAYS]
    cases += [SamplingCase(sizes[-1], OURS_WAY, num_samples, device) for num_samples in GROWTH_SAMPLES]
    rows = []
    for case in tqdm(cases, "sampling", unit="process"):
        cost = evidence_cost.measure_in_new_process(case)
        shares = {"permanent_share": cost.symmetric_seconds / cost.seconds, "memory_mib": cost.peak_bytes / 2**20}
        rows.append(asdict(case) | {"seconds": cost.seconds} | shares)
    return rows


def describe_machine(device: str) -> dict[str, Any]:
    """What the numbers were measured on, and how busy it was."""
    return {
        "processor": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_average": round(os.getloadavg()[0], 2),
    }


def compare(results: dict[Case, list[Measurement]]) -> list[dict[str, Any]]:
    """Medians of the variants of one guide and size, and their ratios to the baseline, which comes first."""
    rows: list[dict[str, Any]] = []
    for case, measurements in results.items():
        milliseconds, memory_mib = step_ms(measurements), peak_mib(measurements)
        limit = {
            "gflop": measurements[0].flops / 1e9,
            "limit_share": 1000 * median(measured.limit_seconds for measured in measurements) / milliseconds,
        }
        numbers = {"step_ms": milliseconds, "memory_mib": memory_mib}
        base = rows[0] if rows else numbers
        ratios = {"speed_up": base["step_ms"] / milliseconds, "memory_share": memory_mib / base["memory_mib"]}
        rows.append({key: value for key, value in asdict(case).items() if key != "changes"} | numbers | ratios | limit)
    return rows


def step_ms(measurements: list[Measurement]) -> float:
    """Median of the steps in milliseconds."""
    return 1000 * median(second for measured in measurements for second in measured.seconds)


def peak_mib(measurements: list[Measurement]) -> float:
    """Median of the peaks in MiB."""
    return median(measured.peak_bytes for measured in measurements) / 2**20


def report(content: dict[str, Any]) -> str:
    """The numbers as tables for people."""
    machine = content["machine"]
    lines = [
        f"{machine['processor']}, {machine['threads']} CPU threads, torch {machine['torch']}, "
        f"load average {machine['load_average']} at the start",
        "Compare the ratios: absolute times depend on the machine and on what else it does. Memory is the peak beyond",
        "what the process held before its first step; on a CPU it includes some 20 MiB of library code. The limit is",
        "what the convolutions and matrix products of the step take alone, at the same shapes, in the same process.",
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
    """One line on a preset's sizes."""
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


if __name__ == "__main__":
    sys.exit(main())
