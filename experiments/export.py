"""Export a trained run for sharing: ``python experiments/export.py RUN_DIR``.

It writes a new folder, by default RUN_DIR/export, which every other script takes like a run folder:

    model.safetensors           weights of guide and model; nothing in it can run
    config.yaml, summary.json   as in the run, without places on this machine
    environment.json            the commands and packages that made the run, if they were recorded
    README.md                   a model card in the form of the Hugging Face Hub
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from pyro_compvae.cli import run


@dataclass
class Arguments:
    """Write weights as safetensors, with a model card. Nothing is ever overwritten."""

    run_dir: tyro.conf.Positional[Path]
    """The run folder of a finished run."""
    out: Path | None = None
    """The folder to write, new or empty; by default RUN_DIR/export."""
    license: str | None = None
    """The licence of the weights, such as cc-by-4.0; by default mit for data that this project makes, else other."""
    half: bool = False
    """Whether weights are rounded to float16, for half the size."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return run(Arguments, export, arguments)


def export(args: Arguments) -> None:
    """Export the run, and list the files."""
    from pyro_compvae.analysis import export_run

    for file in sorted(export_run(args.run_dir, args.out, args.license, args.half).iterdir()):
        print(f"{file.stat().st_size:>12,} bytes  {file}")


if __name__ == "__main__":
    sys.exit(main())
