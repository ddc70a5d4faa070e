"""A test of an installed wheel without the source, which .ci/run starts: ``python -I smoke.py EXPORT``.

Every guide trains two steps, is evaluated, gives an estimate of log p(x), and is exported, loaded and reported on;
EXPORT, a folder of results/, is loaded too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import torch

import pyro_compvae
from pyro_compvae import analysis, experiments, guides
from pyro_compvae.analysis import evaluate, export_run, load_run, train
from pyro_compvae.analysis.report.page import write_report
from pyro_compvae.evidence import importance_log_evidence
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import GuideName

CPU = torch.device("cpu")


def smoke(guide_name: GuideName, folder: Path) -> None:
    """Go all the way from scenes to a report."""
    torch.manual_seed(0)
    config = preset("tiny", guide_name).replace({"training.steps": 2})
    trained = train(config, folder)
    run = load_run(export_run(trained.path))
    arguments = run.guide.arguments(trained.scenes("test")[:2])
    estimate = importance_log_evidence(run.model, run.guide, *arguments, num_samples=20)
    assert estimate.log_evidence.isfinite().all()
    write_report(folder / "report.html", [folder, folder / "export"], num_scenes=2)


def main() -> int:
    """Run the script; returns the exit code."""
    for package in (pyro_compvae, guides, analysis, experiments):
        assert package.__file__ is not None
        assert Path(package.__file__).is_relative_to(sys.prefix), f"{package.__file__} is not of {sys.prefix}"
    assert Path(pyro_compvae.__file__ or "").with_name("py.typed").is_file()
    assert pyro_compvae.__version__ == version("pyro-compvae")
    subprocess.run([Path(sys.prefix) / "bin" / "compvae", "report", "--help"], check=True, stdout=subprocess.DEVNULL)
    print(
        f"Python {sys.version.split()[0]}:", *(f"{name} {version(name)}" for name in ("pyro-compvae", "torch", "arviz"))
    )
    for guide_name in get_args(GuideName):
        with tempfile.TemporaryDirectory() as folder:
            smoke(guide_name, Path(folder))
    shared = load_run(sys.argv[1])
    summary = json.loads((shared.path / "summary.json").read_text(encoding="utf-8"))
    scenes = shared.scenes("test")
    torch.manual_seed(shared.config.seed)
    assert abs(evaluate(shared.guide, scenes, CPU)["elbo"] - summary["elbo"]) < 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
