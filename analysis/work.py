"""About how many evaluations of a scene's log joint a study takes, as `LogJoint.evaluated` counts them."""

from __future__ import annotations

from typing import get_args

from pyro_compvae.analysis.evidence.compute import EvidenceConfig
from pyro_compvae.analysis.ladder.compute import APPROACH_SAMPLES, FIT_SAMPLES, LadderConfig
from pyro_compvae.evidence import Family
from pyro_compvae.evidence.density import GRADIENT


def work_of_evidence(config: EvidenceConfig, num_slots: int, observed: bool = False) -> int:
    """The work of `estimate_scenes`.

    Args:
        config: the effort.
        num_slots: K.
        observed: whether the first half of several views is estimated as well.
    """
    families, refined = len(config.families_of(num_slots)), config.refined()
    work = config.num_samples * (1 + (config.inflation > 1) + 2 * families) + families * refined.fit_evaluations()
    if config.ais_chains:
        work += refined.evaluations() - refined.fit_evaluations()
    return work + (config.sampled().evaluations() if observed else 0)


def work_of_ladder(config: LadderConfig) -> int:
    """The work of `gap_ladder`."""
    families, evidence = len(get_args(Family)), config.evidence()
    fits = APPROACH_SAMPLES * (config.approach_steps + config.flow_steps) + FIT_SAMPLES * config.fit_steps * families
    rungs = config.num_samples * (1 + families + (config.flow_steps > 0))
    # The fit of log p̂(x) is one of the rungs; it is only made to cover more.
    covered = evidence.evaluations() - GRADIENT * evidence.fitting().num_samples * evidence.fit_steps
    return GRADIENT * fits + rungs + covered
