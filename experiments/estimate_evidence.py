"""Estimate log p(x) of a run's test scenes: ``python experiments/estimate_evidence.py RUN_DIR``.

It writes these files into the run folder:

    evidence.nc                 log weights of every estimator (chain, draw, scene), in the group "sample_stats"
    figures/evidence.png        the estimates against the number of draws
    sandwich.nc                 with --bdmc: both bounds and the importance estimate of every simulated scene
    evidence/                   batches that are done, from which the same call continues
    replaced/                   numbers of other scenes, settings or weights that these files held before
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro
from torch import Tensor
from tqdm import tqdm

from pyro_compvae.analysis.evidence.compute import QUICK, EvidenceConfig
from pyro_compvae.analysis.runs import Run, load_run
from pyro_compvae.checks import check_counts
from pyro_compvae.cli import run
from pyro_compvae.data import SceneSet
from pyro_compvae.device import choose_device
from pyro_compvae.evidence import EvidenceEstimate
from pyro_compvae.runs.files import check_writable
from pyro_compvae.training.distributed import joined_workers


@dataclass
class Arguments:
    """Estimate the log-evidence of test scenes under a trained run, and say how far to believe it."""

    run_dir: tyro.conf.Positional[Path]
    """The run folder."""
    data_root: Path | None = None
    """Where the data are now, if they have moved since training: the file of scenes, or the folder of the data set."""
    num_scenes: int = 64
    """How many test scenes to use, from the first on."""
    batch_scenes: int = 16
    """How many scenes are estimated and saved together; memory grows with it and with --chunk-size."""
    evidence: tyro.conf.OmitArgPrefixes[EvidenceConfig] = field(default_factory=EvidenceConfig)
    bdmc: bool = False
    """Whether to sandwich log p(x) of scenes simulated from the model as well."""
    bdmc_scenes: int = 16
    """How many scenes --bdmc simulates."""
    quick: bool = False
    """A first look in about a minute of a CPU core, instead of half an hour: other defaults, namely 8 scenes and a
    fit without annealing. Options given beside it are kept."""
    seed: int = 0
    """The seed of all random numbers."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device to compute on; auto takes a GPU if there is one."""


QUICKLY = Arguments(tyro.MISSING, num_scenes=8, evidence=QUICK, bdmc_scenes=2, quick=True)
"""The defaults with --quick."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return run(Arguments, estimate, arguments, "interrupted; the same call continues", QUICKLY)


def estimate(args: Arguments) -> None:
    """Estimate batch by batch, shared among the workers; batches of an interrupted call are not computed again."""
    from pyro_compvae.analysis import Batches, estimate_evidence

    check_counts(bdmc_scenes=args.bdmc_scenes)
    device = choose_device(args.device)
    with joined_workers(device) as workers:
        batches = Batches(args.num_scenes, args.batch_scenes, args.seed, workers)
        run = load_run(args.run_dir, device, data_root=args.data_root)
        check_writable(run.path)
        args.evidence.families_of(run.model.num_slots)
        scenes = run.scenes("test")
        estimates = estimate_evidence(run, scenes, args.evidence, batches)
        if workers.is_first:
            tell(run, scenes, estimates)
            if args.bdmc:
                certify(args, run, scenes)


def tell(run: Run, scenes: SceneSet, estimates: dict[str, EvidenceEstimate]) -> None:
    """Draw and print the estimates, and print how far to believe each."""
    from pyro_compvae.analysis.evidence.figure import evidence_figure
    from pyro_compvae.analysis.evidence.table import evidence_table

    title = f"{run.path.name}, {len(estimates['guide'].log_evidence)} test scenes"
    evidence_figure(run.folder.figure("evidence.png"), estimates, title)
    print(evidence_table(estimates, 3 * run.config.data.image_size**2 * (scenes.num_views or 1)))
    for name, result in estimates.items():
        print(f"{name}: {result.verdict()}")


def certify(args: Arguments, run: Run, scenes: SceneSet) -> None:
    """Sandwich log p(x) of simulated scenes, seen from the viewpoints of the test scenes if there are any."""
    from pyro_compvae.analysis.evidence.data_set import certify_simulated
    from pyro_compvae.analysis.evidence.table import sandwich_table

    with tqdm(unit="transition") as bar:

        def show(step: int, total: int, acceptance: Tensor) -> None:
            if step == 1:  # once for each direction
                bar.reset(total)
            bar.update()

        data = certify_simulated(run, scenes, args.evidence, args.bdmc_scenes, args.seed, show)
    print(sandwich_table(data))


if __name__ == "__main__":
    sys.exit(main())
