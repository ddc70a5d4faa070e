"""L-NMS as a prior of the model: ``python experiments/repulsive_prior.py RUN_DIR``.

It writes into the run folder

    repulsive_prior.nc          log p̂(x) of every scene under both priors, and their Bayes factor (group "sample_stats")
    figures/repulsive_prior.png scenes drawn from both priors
    prior_independent.nc, prior_repulsive.nc    log weights, from which the same call goes on
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import tyro
import xarray

from pyro_compvae import repulsive
from pyro_compvae.analysis.evidence.compute import QUICK, EvidenceConfig
from pyro_compvae.analysis.evidence.data_set import estimate_evidence
from pyro_compvae.analysis.evidence.table import interval
from pyro_compvae.analysis.figures.decompositions import samples_figure
from pyro_compvae.analysis.results import save
from pyro_compvae.analysis.runs import load_run
from pyro_compvae.checks import check_counts
from pyro_compvae.cli import run
from pyro_compvae.device import choose_device
from pyro_compvae.evidence.estimate import RELIABLE
from pyro_compvae.normaliser import Normaliser, estimate_log_normaliser

DRAWN_SCENES = 10


@dataclass
class Arguments:
    """Hold the evidence of repelling slots against that of independent ones, with the weights of a trained run."""

    run_dir: tyro.conf.Positional[Path]
    """Run folder."""
    num_scenes: int = 32
    """Test scenes, the first ones."""
    strength: float | None = None
    """s, instead of the run's."""
    scale: float | None = None
    """σ_c, instead of the run's."""
    tabulate: bool = False
    """Whether to print log Z for other K and s, too."""
    batch_scenes: int = 16
    """Scenes whose evidence is estimated together, and saved together."""
    evidence: tyro.conf.OmitArgPrefixes[EvidenceConfig] = field(default_factory=lambda: QUICK)
    seed: int = 0
    """Seed of all random numbers."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return run(Arguments, hold_against, arguments, "interrupted; the same call goes on")


def hold_against(args: Arguments) -> None:
    """Estimate log Z, draw from both priors, and estimate the evidence under both."""
    check_counts(num_scenes=args.num_scenes, batch_scenes=args.batch_scenes)
    device = choose_device(args.device)
    run = load_run(args.run_dir, device)
    K, D = run.model.num_slots, run.model.latent_dim
    best = args.evidence.best(K)
    strength = run.config.lnms_prior.strength if args.strength is None else args.strength
    scale = run.config.lnms_prior.scale if args.scale is None else args.scale
    normaliser = estimate_log_normaliser(K, D, strength, scale)
    print(f"log Z(K {K}, D {D}, σ_c {scale:g}, s {strength:g}) = {show(normaliser)}")
    if args.tabulate:
        tabulate(K, D, strength, scale)
    repelling = dataclasses.replace(run, model=repulsive(run.model, strength, scale))

    torch.manual_seed(args.seed)
    scenes = run.scenes("test")
    first = scenes[:DRAWN_SCENES].to(device)  # whose viewpoints drawn scenes are seen from, if there are any
    viewpoints = run.guide.arguments(first if scenes.num_views is None else first.view(0))[1:]
    rows = {}
    for name, model in (("independent", run.model), ("repelling", repelling.model)):
        with torch.no_grad():
            z = model.prior().expand(torch.Size([len(first.image)])).sample()
            rows[name] = model.likelihood(z, *viewpoints).mean
    samples_figure(run.folder.figure("repulsive_prior.png"), rows, f"{args.run_dir.name}, scenes of the prior")

    effort = (scenes, args.evidence, args.num_scenes, args.batch_scenes, args.seed)
    independent = estimate_evidence(run, *effort, name="prior_independent", observed=False)
    repulsed = estimate_evidence(repelling, *effort, name="prior_repulsive", observed=False)
    both = (independent[best], repulsed[best])
    factor = both[1].log_evidence - both[0].log_evidence
    numbers = {
        "log_evidence_independent": both[0].log_evidence,
        "log_evidence_repulsive": both[1].log_evidence,
        "standard_error": torch.hypot(both[0].standard_error, both[1].standard_error),
        "log_bayes_factor": factor,
    }
    data = xarray.Dataset({name: ("scene", value.cpu().numpy()) for name, value in numbers.items()})
    attrs = {"strength": strength, "scale": scale, **normaliser._asdict()}
    save(run.folder.numbers("repulsive_prior"), data.assign_attrs(attrs))
    print(f"log p̂(x), independent slots:  {interval(both[0].log_evidence)} nats per scene; {both[0].verdict()}")
    print(f"log p̂(x), repelling slots:    {interval(both[1].log_evidence)} nats per scene; {both[1].verdict()}")
    print(
        f"log Bayes factor:             {interval(factor)} nats per scene, from {float(factor.min()):.2f} to "
        f"{float(factor.max()):.2f}; for repelling slots in {int((factor > 0).sum())} of {len(factor)} scenes "
        f"(standard error of one: {float(numbers['standard_error'].median()):.2f}; of all in common, by log Z: "
        f"{normaliser.standard_error:.2f})"
    )


def tabulate(num_slots: int, latent_dim: int, strength: float, scale: float) -> None:
    """Print log Z for numbers of slots up to two more, and strengths about the one asked for."""
    strengths = [factor * strength for factor in (0.25, 0.5, 1.0, 2.0)]
    print("log Z " + "".join(f"{f's = {s:g}':>18}" for s in strengths))
    for K in range(2, num_slots + 3):
        cells = [show(estimate_log_normaliser(K, latent_dim, s, scale)) for s in strengths]
        print(f"K = {K:<2}" + "".join(f"{cell:>18}" for cell in cells), flush=True)


def show(normaliser: Normaliser) -> str:
    """log Z and its standard error, with a mark where k̂ does not bear it out."""
    mark = "" if normaliser.khat < RELIABLE else " (k̂!)"
    return f"{normaliser.log_normaliser:.3f} ± {normaliser.standard_error:.3f}{mark}"


if __name__ == "__main__":
    sys.exit(main())
