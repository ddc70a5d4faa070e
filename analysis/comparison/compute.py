r"""Comparisons of two kinds of runs, image by image: does L-NMS change the model or the posterior?

    ΔL⁺ = L[q⁺] − L[q⁰] = Δ log p(x) − Δ gap,      gap = log p(x) − L[q]        (ΔL⁺: paper, Eq. 6)

The paper interprets ΔL⁺ as a gap that closes, as if both runs had the same θ. They do not; log p̂(x) separates the two
terms. Δ is always the run with (+) minus the run without (0).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import xarray
from numpy.typing import NDArray
from torch import Tensor

from pyro_compvae.analysis.batches import Batches
from pyro_compvae.analysis.comparison.pairs import ComparisonError, check_comparable, check_same_scenes, same_model
from pyro_compvae.analysis.evidence.compute import ESTIMATORS, EvidenceConfig, log_joint_and_posterior
from pyro_compvae.analysis.evidence.data_set import estimate_evidence
from pyro_compvae.analysis.metrics.evaluation import scene_batches, scene_metrics
from pyro_compvae.analysis.results import IdentityError, Settings, check_identity, read, recorded
from pyro_compvae.analysis.runs import Run
from pyro_compvae.data.scenes import SceneSet
from pyro_compvae.evidence import proposal_log_evidence
from pyro_compvae.evidence.proposals.symmetric import normal_proposal

MIN_SCENES = 8
"""Least number of scenes for an interval."""

METRICS = ("miou", "mse", "duplicates", "duplicates_latent")

QUANTITIES = ("elbo", "log_evidence", "gap", *METRICS)
"""The quantities that are compared: those in nats, and metrics of `scene_metrics`."""

RESAMPLES = 4000
"""Number of resamples of the bootstrap, with which an end of a 95 % interval has a standard error of a hundredth of its
width."""


def compare(
    pairs: Sequence[tuple[Run, Run]],
    scenes: SceneSet,
    config: EvidenceConfig,
    batches: Batches,
) -> xarray.Dataset:
    """Evaluate both runs of every pair on the same scenes; returns (pair, side, scene) with side "0" or "+".

    elbo, log_evidence, standard_error, gap: nats; with one θ, log p̂(x) is estimated once, from the run without L-NMS.
    reliable: whether log p̂(x) is reliable by k̂.
    miou, mse, duplicates, duplicates_latent: see `scene_metrics`; those of masks are NaN if there are none. With
        several views they are from the first V // 2, while nats are for all views.

    Evidence is kept in comparison.nc of every run folder, and is not estimated again with the same settings.

    Args:
        pairs: pairs of a run without L-NMS and a run with it.
        scenes: the test scenes of all runs.
        config: the effort for log p̂(x).
        batches: how many of the scenes, and how many at a time.

    Raises:
        ComparisonError: for runs on other images, or too few scenes for an interval.
        DataError: if the scenes of a run cannot be loaded.
    """
    batches = batches.of(scenes)
    if batches.num_scenes < MIN_SCENES:
        raise ComparisonError(f"num_scenes: expected at least {MIN_SCENES} for intervals, got {batches.num_scenes}")
    runs = [run for pair in pairs for run in pair]
    for run in runs:
        check_comparable((pairs[0][0], run))
        config.families_of(run.model.num_slots)  # too many slots are refused before anything is computed
    check_same_scenes(runs, scenes)
    scenes = scenes.part(slice(batches.num_scenes))
    sides = []
    for pair in pairs:
        effort = (scenes, config, batches)
        row_0 = _evidence(pair[0], *effort) | _scores(pair[0], scenes, batches)
        # With one θ p(x) is the same, and two estimates of it would differ by noise only.
        row_plus = row_0 | _elbo(pair[1], *effort) if same_model(pair) else _evidence(pair[1], *effort)
        rows = [row_0, row_plus | _scores(pair[1], scenes, batches)]
        both = [xarray.Dataset({name: ("scene", v.cpu().numpy()) for name, v in row.items()}) for row in rows]
        sides.append(xarray.concat(both, xarray.IndexVariable("side", ["0", "+"])))
    data = xarray.concat(sides, "pair")
    data["gap"] = data["log_evidence"] - data["elbo"]
    return data


def comparison_settings(
    pairs: Sequence[tuple[Run, Run]], scenes: SceneSet, config: EvidenceConfig, batches: Batches
) -> Settings:
    """Everything that the result of `compare` depends on, with the identities of all runs under "pairs"."""
    batches = batches.of(scenes)
    return {
        "version": ESTIMATORS,
        "pairs": [[run.identity for run in pair] for pair in pairs],
        "scenes": scenes.part(slice(batches.num_scenes)).digests,
        **{name: getattr(batches, name) for name in ("num_scenes", "batch_scenes", "seed")},
        **dataclasses.asdict(config),
    }


def _evidence(run: Run, scenes: SceneSet, config: EvidenceConfig, batches: Batches) -> dict[str, Tensor]:
    estimates = estimate_evidence(run, scenes, config, batches, name="comparison", observed=False)
    best = estimates[config.best(run.model.num_slots)]
    return {
        "elbo": estimates["guide"].elbo,
        "log_evidence": best.log_evidence,
        "standard_error": best.standard_error,
        "reliable": best.reliable,
    }


def _elbo(run: Run, scenes: SceneSet, config: EvidenceConfig, batches: Batches) -> dict[str, Tensor]:
    torch.manual_seed(batches.seed)
    parts = []
    for batch in scene_batches(scenes, run.device, batches.batch_scenes):
        log_joint, q = log_joint_and_posterior(run, run.guide.arguments(batch))
        proposal, effort = normal_proposal(q), (config.num_samples, config.chunk_size)
        parts.append(proposal_log_evidence(log_joint, proposal, *effort, symmetrise=False).elbo)
    return {"elbo": torch.cat(parts)}


def _scores(run: Run, scenes: SceneSet, batches: Batches) -> dict[str, Tensor]:
    torch.manual_seed(batches.seed)
    parts = [scene_metrics(run.guide, batch) for batch in scene_batches(scenes, run.device, batches.batch_scenes)]
    return {name: torch.cat([part[name] for part in parts]).double() for name in METRICS}


def ladders(pairs: Sequence[tuple[Run, Run]], scenes: SceneSet | None) -> xarray.Dataset | None:
    """The parts of the gap, "gap" (pair, side, gap_name, scene), that ``gap_ladder.py`` wrote into the run folders.

    The result is None unless every run has a ladder of its present weights, and all ladders have the same settings and
    scenes, which are the first of the scenes given, if any are, and enough for an interval.
    """
    found, settings = [], set()
    for pair in pairs:
        sides = []
        for run in pair:
            path = run.folder.numbers("ladder")
            if not path.is_file():
                return None
            side = read(path)
            content = {name: value for name, value in recorded(side).items() if name not in run.identity}
            try:
                check_identity(path, side, run.identity, scenes)
            except IdentityError:
                return None
            if "scenes" not in content or side.sizes["scene"] < MIN_SCENES:
                return None
            settings.add(json.dumps(content))
            sides.append(side[["gap"]].drop_attrs())
        found.append(xarray.concat(sides, xarray.IndexVariable("side", ["0", "+"])))
    return xarray.concat(found, "pair") if len(settings) == 1 else None


def undefined(data: xarray.Dataset) -> list[str]:
    """Those of METRICS that are NaN in all scenes, such as those of masks if there are none."""
    return [name for name in METRICS if bool(data[name].isnull().all())]


def delta(data: xarray.Dataset, name: str) -> NDArray:
    """The run with L-NMS minus the run without, (pair, scene)."""
    values = data[name].transpose("side", "pair", "scene").values.astype(float)
    return values[1] - values[0]


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        digits = 2 if max(abs(self.low), abs(self.high)) >= 0.5 else 4
        return f"{self.mean:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"

    @property
    def sign(self) -> int:
        """1 or −1 if the interval is on one side of zero, and else 0."""
        return int(self.low > 0) - int(self.high < 0)


def bootstrap(values: NDArray, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """The mean of differences (pair, scene), with a percentile interval of the bootstrap.

    All pairs of runs saw the same scenes, so pairs and scenes are crossed, not nested: both are resampled,
    independently of each other, and every chosen pair is taken at every chosen scene (Owen 2007, the pigeonhole
    bootstrap). With one pair only scenes are resampled, and the interval is for these two runs and no others. With a
    few pairs intervals are too narrow, since they cannot show what further seeds would do.

    Args:
        values: the differences of each pair at each scene.
        seed: the seed of the draws.
        resamples: the number of resamples.
    """
    rng = np.random.default_rng(seed)
    P, N = values.shape
    pair_weights = rng.multinomial(P, np.full(P, 1 / P), size=resamples) / P
    scene_weights = rng.multinomial(N, np.full(N, 1 / N), size=resamples) / N
    means = np.einsum("rp,pn,rn->r", pair_weights, values, scene_weights, optimize=True)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))
