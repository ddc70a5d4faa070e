"""The evidence of a trained model under independent slots and under repelling ones."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import xarray
from torch import Tensor

from pyro_compvae.analysis.batches import Batches
from pyro_compvae.analysis.evidence.compute import EvidenceConfig
from pyro_compvae.analysis.evidence.data_set import estimate_evidence
from pyro_compvae.analysis.evidence.table import interval
from pyro_compvae.analysis.runs import Run
from pyro_compvae.data.scenes import SceneSet
from pyro_compvae.evidence import EvidenceEstimate
from pyro_compvae.models import SlotModel
from pyro_compvae.normaliser import Normaliser


@dataclass(frozen=True)
class PriorComparison:
    """Estimates of log p(x) for the same scenes under both priors."""

    independent: EvidenceEstimate
    """The estimate under independent slots."""
    repulsive: EvidenceEstimate
    """The estimate under repelling slots."""

    @property
    def log_bayes_factor(self) -> Tensor:
        """The log Bayes factor for repelling slots, (B,) in nats."""
        return self.repulsive.log_evidence - self.independent.log_evidence

    @property
    def standard_error(self) -> Tensor:
        """The standard error of the log Bayes factor, (B,) in nats, without that of log Z, which all scenes share."""
        return torch.hypot(self.independent.standard_error, self.repulsive.standard_error)

    def data(self) -> xarray.Dataset:
        """All numbers in nats for every "scene"."""
        numbers = {
            "log_evidence_independent": self.independent.log_evidence,
            "log_evidence_repulsive": self.repulsive.log_evidence,
            "standard_error": self.standard_error,
            "log_bayes_factor": self.log_bayes_factor,
        }
        return xarray.Dataset({name: ("scene", values.cpu().numpy()) for name, values in numbers.items()})

    def table(self, normaliser: Normaliser) -> str:
        """Lines with both log p̂(x) and the log Bayes factor."""
        factor = self.log_bayes_factor
        return "\n".join(
            (
                f"log p̂(x), independent slots:  {_in_words(self.independent)}",
                f"log p̂(x), repelling slots:    {_in_words(self.repulsive)}",
                f"log Bayes factor:             {interval(factor)} nats per scene, from {float(factor.min()):.2f} to "
                f"{float(factor.max()):.2f}; for repelling slots in {int((factor > 0).sum())} of {len(factor)} scenes "
                f"(standard error of one: {float(self.standard_error.median()):.2f}; common to all, from log Z: "
                f"{normaliser.standard_error:.2f})",
            )
        )


def compare_priors(
    run: Run, repelling: SlotModel, scenes: SceneSet, config: EvidenceConfig, batches: Batches
) -> PriorComparison:
    """Estimate log p(x) under both priors; log weights are kept in the run folder and are not computed again.

    Args:
        run: a trained run, whose slots are independent.
        repelling: its model with a repulsive prior.
        scenes: the test scenes.
        config: the effort.
        batches: how many of the scenes, and how many at a time.
    """
    best = config.best(run.model.num_slots)
    estimates = [
        estimate_evidence(dataclasses.replace(run, model=model), scenes, config, batches, name, observed=False)[best]
        for name, model in (("prior_independent", run.model), ("prior_repulsive", repelling))
    ]
    return PriorComparison(*estimates)


@torch.no_grad()
def prior_scenes(run: Run, repelling: SlotModel, scenes: SceneSet, num_scenes: int, seed: int = 0) -> dict[str, Tensor]:
    """Means of scenes drawn from both priors, (N, 3, H, W) each, seen from the viewpoints of a set's first scenes."""
    torch.manual_seed(seed)
    first = scenes[:num_scenes].to(run.device)
    viewpoints = run.guide.arguments(first if scenes.num_views is None else first.view(0))[1:]
    drawn = {}
    for name, model in (("independent", run.model), ("repelling", repelling)):
        z = model.prior().expand(torch.Size([len(first.image)])).sample()
        drawn[name] = model.likelihood(z, *viewpoints).mean
    return drawn


def _in_words(estimate: EvidenceEstimate) -> str:
    return f"{interval(estimate.log_evidence)} nats per scene; {estimate.verdict()}"
