"""The benchmark: measurements of all guides, sizes and variants in turn."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
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
    PROCESS_STATUS,
    VARIANTS,
    Case,
    Measurement,
    measure_in_new_process,
)
from pyro_compvae.device import choose_device
from pyro_compvae.errors import ConfigError
from pyro_compvae.runs.environment import processor
from pyro_compvae.runs.sections import GuideName

NUM_SAMPLES = 40
"""Number of importance samples that are timed at every size."""


GROWTH_SAMPLES = (100, 10_000)
"""Values of L in the table of memory against L, which is for the last size and takes minutes at "paper"."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """The measurements to make, and how often."""

    quick: bool = False
    """Measure only the tiny size, whatever --sizes says, to see that everything runs; the numbers mean nothing."""
    rounds: int = 1
    """Number of processes per variant; one round of everything takes about half an hour on two cores."""
    compile: bool = False
    """Whether to measure compiled networks too."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device to measure; auto takes a GPU if there is one."""
    guides: tuple[GuideName, ...] = ("iodine", "monet", "mulmon")
    """The guides to measure."""
    sizes: tuple[Literal["paper", "default"], ...] = ("paper", "default")
    """The presets to measure; growth is measured for the last one."""

    def check(self) -> None:
        """Refuse settings that cannot work, before minutes of measuring.

        Raises:
            ConfigError: with the name of the argument.
        """
        if self.rounds < 1:
            raise ConfigError(f"rounds: expected at least 1, got {self.rounds}")
        for name, given in (("guides", self.guides), ("sizes", self.sizes)):
            if not given or len(set(given)) < len(given):
                raise ConfigError(f"--{name}: expected one or more, each once; got {' '.join(given) or 'none'}")
        if choose_device(self.device).type == "cpu" and not PROCESS_STATUS.is_file():
            raise ConfigError(f"device: expected Linux, where {PROCESS_STATUS} tells the memory of a process, or cuda")


def run_benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Measure everything, and return the content of the file that ``benchmark.py --json`` writes."""
    config.check()
    sizes: tuple[str, ...] = ("tiny",) if config.quick else config.sizes
    device = choose_device(config.device).type
    machine = describe_machine(device)
    variants = [variant for variant in VARIANTS if config.compile or variant != COMPILED]
    tables = [[Case(size, guide, variant, device) for variant in variants] for size in sizes for guide in config.guides]
    # MulMON refines each view like IODINE and would take several times as long to show the same.
    growth = {
        (variant, axis): growth_cases(sizes[-1], "iodine", variant, axis, device)
        for variant in (BASELINE, OURS)
        for axis in (("T",) if config.quick else AXES)
        if "iodine" in config.guides
    }
    cases = [case for table in tables for case in table]
    grown = [case for some in growth.values() for case in some]
    results: dict[Case, list[Measurement]] = {case: [] for case in (*cases, *grown)}
    jobs = [*cases * config.rounds, *grown]
    # The numbers of the tiny size mean nothing, so two processes may disturb each other.
    with ThreadPoolExecutor(2 if config.quick else 1) as pool:
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
        "rounds": config.rounds,
        "steps": rows,
        "growth": curves,
        "importance_sampling": sample(sizes, device) if "iodine" in config.guides else [],
    }


def sample(sizes: tuple[str, ...], device: str) -> list[dict[str, Any]]:
    """Time importance samples of one scene, a process each: both ways at every size, and many of ours at the last."""
    cases = [SamplingCase(size, way, NUM_SAMPLES, device) for size in sizes for way in WAYS]
    cases += [SamplingCase(sizes[-1], OURS_WAY, num_samples, device) for num_samples in GROWTH_SAMPLES]
    rows = []
    for case in tqdm(cases, "sampling", unit="process"):
        cost = evidence_cost.measure_in_new_process(case)
        shares = {"permanent_share": cost.symmetric_seconds / cost.seconds, "memory_mib": cost.peak_bytes / 2**20}
        rows.append(asdict(case) | {"seconds": cost.seconds} | shares)
    return rows


def describe_machine(device: str) -> dict[str, Any]:
    """The machine on which the numbers were measured, and its load."""
    return {
        "processor": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_average": round(os.getloadavg()[0], 2),
    }


def compare(results: dict[Case, list[Measurement]]) -> list[dict[str, Any]]:
    """The medians of the variants of one guide and size, and their ratios to the baseline, which comes first."""
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
    """The median time of the steps in milliseconds."""
    return 1000 * median(second for measured in measurements for second in measured.seconds)


def peak_mib(measurements: list[Measurement]) -> float:
    """The median of the memory peaks in MiB."""
    return median(measured.peak_bytes for measured in measurements) / 2**20
