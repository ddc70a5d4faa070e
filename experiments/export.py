"""Make a trained run fit to be shared: ``python experiments/export.py RUN_DIR``.

It writes a folder of its own, RUN_DIR/export by default, which every other script takes for a run folder:

    model.safetensors           weights of guide and model; nothing in it can run
    config.yaml, summary.json   as in the run, without places on this machine
    environment.json            the commands and packages that made the run, where they were recorded
    README.md                   a model card, as the Hugging Face Hub reads it
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from pyro_compvae.analysis.sharing.export import export_run
from pyro_compvae.cli import run


@dataclass
class Arguments:
    """Write weights as safetensors, with a model card. Nothing is ever overwritten."""

    run_dir: tyro.conf.Positional[Path]
    """Run folder of a finished run."""
    out: Path | None = None
    """Folder to write, new or empty; RUN_DIR/export by default."""
    license: str | None = None
    """Licence of the weights, such as cc-by-4.0; by default mit on data that this project makes, else other."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return run(Arguments, export, arguments)


def export(args: Arguments) -> None:
    """Export the run, and list the files."""
    for file in sorted(export_run(args.run_dir, args.out, args.license).iterdir()):
        print(f"{file.stat().st_size:>12,} bytes  {file}")


if __name__ == "__main__":
    sys.exit(main())
