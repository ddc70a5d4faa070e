"""Report on runs: ``python experiments/report.py RUN_DIR [RUN_DIR ...]`` writes one HTML page that needs no network.

The page shows the content of the run folders, with runs side by side: training, decompositions, evidence, the gap
ladder, posterior, calibration, configuration and commands. It also says what has not been computed, and how to compute
it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from pyro_compvae.cli import run
from pyro_compvae.runs.folder import RunFolder


@dataclass
class Arguments:
    """Write a page about one run, or about several side by side."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """The run folders."""
    out: Path | None = None
    """The HTML file; by default report.html in the first of the folders that is a run's."""
    data_root: Path | None = None
    """Where the data are now, if they have moved since training: the file of scenes, or the folder of the data set. It
    holds for all runs whose data are on disk."""
    num_scenes: int = 16
    """Number of decompositions of test scenes to leaf through."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return run(Arguments, report, arguments)


def report(args: Arguments) -> None:
    """Write the page."""
    from pyro_compvae.analysis.report import write_report

    first = next((path for path in args.run_dirs if RunFolder(path).is_run), Path())
    path = args.out or first / "report.html"
    for problem in write_report(path, args.run_dirs, args.num_scenes, args.data_root):
        print(f"not on the page: {problem}", file=sys.stderr)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
