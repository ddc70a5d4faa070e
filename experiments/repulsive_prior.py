"""L-NMS as a prior of the model: ``python experiments/repulsive_prior.py RUN_DIR``.

It writes these files into the run folder:

    repulsive_prior.nc          log p̂(x) of every scene under both priors, and their Bayes factor (group "sample_stats")
    figures/repulsive_prior.png scenes drawn from both priors
    prior_independent.nc, prior_repulsive.nc    log weights, from which the same call continues
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from pyro_compvae import repulsive
from pyro_compvae.analysis.evidence.compute import QUICK, EvidenceConfig
from pyro_compvae.analysis.runs import load_run
from pyro_compvae.cli import run
from pyro_compvae.device import choose_device
from pyro_compvae.evidence.estimate import RELIABLE
from pyro_compvae.lnms import strength_of_sum
from pyro_compvae.normaliser import Normaliser, estimate_log_normaliser
from pyro_compvae.runs.files import check_writable

DRAWN_SCENES = 10
"""Number of scenes from each prior in the picture."""


@dataclass
class Arguments:
    """Compare the evidence of repelling slots with that of independent ones, with the weights of a trained run."""

    run_dir: tyro.conf.Positional[Path]
    """The run folder."""
    data_root: Path | None = None
    """Where the data are now, if they have moved since training: the file of scenes, or the folder of the data set."""
    num_scenes: int = 32
    """How many test scenes to use, from the first on."""
    strength: float | None = None
    """s, the strength of L-NMS, instead of the run's; it is of the form."""
    form: Literal["sum", "mean"] | None = None
    """The form of L-NMS, instead of the run's. A run with the form presence needs one, since that is no density."""
    scale: float | None = None
    """σ_c, the scale of L-NMS, instead of the run's."""
    tabulate: bool = False
    """Whether to print log Z for other K and s as well."""
    batch_scenes: int = 16
    """How many scenes' evidence is estimated and saved together."""
    evidence: tyro.conf.OmitArgPrefixes[EvidenceConfig] = field(default_factory=lambda: QUICK)
    seed: int = 0
    """The seed of all random numbers."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device to compute on; auto takes a GPU if there is one."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return run(Arguments, hold_against, arguments, "interrupted; the same call continues")


def hold_against(args: Arguments) -> None:
    """Estimate log Z, draw from both priors, and estimate the evidence under both."""
    from pyro_compvae.analysis import Batches
    from pyro_compvae.analysis.comparison.priors import compare_priors, prior_scenes
    from pyro_compvae.analysis.figures.decompositions import samples_figure
    from pyro_compvae.analysis.results import read, recorded, save

    batches = Batches(args.num_scenes, args.batch_scenes, args.seed)
    run = load_run(args.run_dir, choose_device(args.device), data_root=args.data_root)
    check_writable(run.path)
    K, D = run.model.num_slots, run.model.latent_dim
    args.evidence.best(K)
    of_run = run.config.lnms_prior
    form = args.form or of_run.form
    strength = strength_of_sum(of_run.strength if args.strength is None else args.strength, form, K)
    scale = of_run.scale if args.scale is None else args.scale
    normaliser = estimate_log_normaliser(K, D, strength, scale)
    print(f"log Z(K {K}, D {D}, σ_c {scale:g}, s {strength:g}) = {show(normaliser)}")
    if args.tabulate:
        tabulate(K, D, strength, scale)
    repelling, scenes = repulsive(run.model, strength, scale), run.scenes("test")
    drawn = prior_scenes(run, repelling, scenes, DRAWN_SCENES, args.seed)
    samples_figure(run.folder.figure("repulsive_prior.png"), drawn, f"{args.run_dir.name}, scenes of the prior")
    comparison = compare_priors(run, repelling, scenes, args.evidence, batches)
    attrs = {"strength": strength, "scale": scale, **normaliser._asdict()}
    settings = recorded(read(run.folder.numbers("prior_repulsive")))  # with another prior, those of prior_independent
    save(run.folder.numbers("repulsive_prior"), comparison.data().assign_attrs(attrs), settings)
    print(comparison.table(normaliser))


def tabulate(num_slots: int, latent_dim: int, strength: float, scale: float) -> None:
    """Print log Z for up to two more slots, and for strengths around the one asked for."""
    strengths = [factor * strength for factor in (0.25, 0.5, 1.0, 2.0)]
    print("log Z " + "".join(f"{f's = {s:g}':>18}" for s in strengths))
    for K in range(2, num_slots + 3):
        cells = [show(estimate_log_normaliser(K, latent_dim, s, scale)) for s in strengths]
        print(f"K = {K:<2}" + "".join(f"{cell:>18}" for cell in cells), flush=True)


def show(normaliser: Normaliser) -> str:
    """A text with log Z and its standard error, and with a mark if they are not reliable by k̂."""
    mark = "" if normaliser.khat < RELIABLE else " (k̂!)"
    return f"{normaliser.log_normaliser:.3f} ± {normaliser.standard_error:.3f}{mark}"


if __name__ == "__main__":
    sys.exit(main())
