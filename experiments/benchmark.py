"""Time and memory of a training step beside the plain way to write it: ``python experiments/benchmark.py --quick``.

Every measurement runs in a fresh process, because peak memory is a process's. The rounds go over all variants in turn,
so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import tyro
from tqdm import tqdm

from analysis.step_cost import BASELINE, SINGLE_PASS, VARIANTS, Case, Measurement, measure_in_new_process
from pyro_compvae.checkpoint import write_text
from pyro_compvae.config import ConfigError
from pyro_compvae.device import choose_device
from pyro_compvae.presets import preset

ITERATIONS = (2, 5, 10)
"""T in the table of memory against T."""


@dataclass
class Arguments:
    """Compare ways to compute IODINE's training step: step time, peak memory, and memory against T."""

    quick: bool = False
    """Only the tiny size: shows that everything runs, says nothing about real sizes."""
    json: Path | None = None
    """File for the numbers."""
    rounds: int = 1
    """Processes per variant; one round takes a quarter of an hour on two cores."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one."""
    sizes: tuple[Literal["paper", "default"], ...] = ("paper", "default")
    """Presets to measure; memory against T is of the first one."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    args = tyro.cli(Arguments, args=arguments)
    try:
        check(args)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    content = compare_variants(args)
    print(report(content))
    if args.json is not None:
        write_text(args.json, json.dumps(content, indent=2) + "\n")
    return 0


def check(args: Arguments) -> None:
    """Refuse, before minutes of measuring, what cannot work.

    Raises:
        ConfigError: naming the argument.
    """
    if args.rounds < 1:
        raise ConfigError(f"--rounds: expected at least 1, got {args.rounds}")
    if not args.sizes:
        raise ConfigError("--sizes: expected at least one of paper and default, got none")
    if args.json is not None and not args.json.parent.is_dir():
        raise ConfigError(f"--json: expected a file in an existing folder, got {args.json}")
    choose_device(args.device)


def compare_variants(args: Arguments) -> dict[str, Any]:
    """Measure everything; what --json writes."""
    sizes = ("tiny",) if args.quick else args.sizes
    device = choose_device(args.device).type
    machine = describe_machine(device)
    iterations = {size: preset(size).refinement.num_iterations for size in sizes}
    cases = [Case(size, variant, iterations[size], device) for size in sizes for variant in VARIANTS]
    growth = [Case(sizes[0], variant, T, device) for variant in (BASELINE, SINGLE_PASS) for T in ITERATIONS]
    results: dict[Case, list[Measurement]] = {case: [] for case in (*cases, *growth)}
    for case in tqdm([*cases * args.rounds, *(c for c in growth if c not in cases)], "measuring", unit="process"):
        results[case].append(measure_in_new_process(case))
    rows = [row for size in sizes for row in compare({c: results[c] for c in cases if c.size == size})]
    memory = [asdict(case) | {"memory_mib": peak_mib(results[case])} for case in growth]
    return {"machine": machine, "rounds": args.rounds, "steps": rows, "memory_against_iterations": memory}


def describe_machine(device: str) -> dict[str, Any]:
    """What the numbers were measured on, and how busy it was."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    models = [line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return {
        "processor": torch.cuda.get_device_name() if device == "cuda" else next(iter(models), platform.machine()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_average": round(os.getloadavg()[0], 2),
    }


def compare(results: dict[Case, list[Measurement]]) -> list[dict[str, Any]]:
    """Medians of one size's variants, and their ratios to the baseline, which comes first."""
    rows: list[dict[str, Any]] = []
    for case, measurements in results.items():
        step_ms = 1000 * median(second for measured in measurements for second in measured.seconds)
        memory_mib = peak_mib(measurements)
        base = rows[0] if rows else {"step_ms": step_ms, "memory_mib": memory_mib}
        ratios = {"speed_up": base["step_ms"] / step_ms, "memory_share": memory_mib / base["memory_mib"]}
        rows.append(asdict(case) | {"step_ms": step_ms, "memory_mib": memory_mib} | ratios)
    return rows


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
        "what the process held before its first step; on a CPU it includes some 20 MiB of library code.",
    ]
    for row in content["steps"]:
        if row["variant"] == BASELINE:
            lines += ["", describe_size(row["size"])]
            lines += [f"{'':24}{'step [ms]':>12}{'speed-up':>12}{'peak [MiB]':>12}{'of plain':>12}"]
        numbers = f"{row['step_ms']:12.1f}{row['speed_up']:11.2f}×{row['memory_mib']:12.1f}{row['memory_share']:12.0%}"
        lines += [f"{row['variant']:24}{numbers}"]
    memory = content["memory_against_iterations"]
    lines += ["", f"Peak memory [MiB] against T, size {memory[0]['size']}"]
    lines += [" " * 24 + "".join(f"{f'T = {T}':>12}" for T in ITERATIONS)]
    for variant in (BASELINE, SINGLE_PASS):
        peaks = [row["memory_mib"] for row in memory if row["variant"] == variant]
        lines += [f"{variant:24}" + "".join(f"{peak:12.1f}" for peak in peaks)]
    return "\n".join(lines)


def describe_size(name: str) -> str:
    """One line on a preset's sizes."""
    config = preset(name)
    side = config.data.image_size
    return (
        f"{name}: {side}×{side} pixels, K {config.num_slots}, D {config.latent_dim}, "
        f"{config.decoder.channels} channels, batch {config.training.batch_size}, T {config.refinement.num_iterations}"
    )


if __name__ == "__main__":
    sys.exit(main())
