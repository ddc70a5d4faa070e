"""Time and memory of training steps and importance samples: ``python experiments/benchmark.py --quick``.

Every measurement runs in a fresh process, because peak memory belongs to a process. The rounds go over all variants in
turn, so that a busy machine slows all of them alike. MulMON draws how many views it observes. Here all steps of all
variants observe the same number, the median of the possible ones, so that their times can be compared.

The file that --json writes has these entries:

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
import sys
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from pyro_compvae.analysis.benchmark.suite import BenchmarkConfig, run_benchmark
from pyro_compvae.analysis.benchmark.table import report
from pyro_compvae.cli import run
from pyro_compvae.errors import ConfigError
from pyro_compvae.runs.files import write_text


@dataclass
class Arguments:
    """Compare ways to compute a training step and importance samples by their time, peak memory, and growth."""

    benchmark: tyro.conf.OmitArgPrefixes[BenchmarkConfig] = field(default_factory=BenchmarkConfig)
    json: Path | None = None
    """A file for the numbers."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return run(Arguments, benchmark, arguments)


def benchmark(args: Arguments) -> None:
    """Measure everything, print it, and write it to the file of --json."""
    if args.json is not None and not args.json.parent.is_dir():
        raise ConfigError(f"--json: expected a file in an existing folder, got {args.json}")
    content = run_benchmark(args.benchmark)
    print(report(content))
    if args.json is not None:
        write_text(args.json, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
