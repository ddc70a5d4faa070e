"""Estimates of log p(x) that can be believed, or that say that they cannot."""

from pyro_compvae.evidence.annealing.bidirectional import Sandwich, bidirectional_log_evidence, simulate
from pyro_compvae.evidence.annealing.chains import annealed_log_evidence
from pyro_compvae.evidence.conditional import ConditionalEvidence, conditional_log_evidence
from pyro_compvae.evidence.estimate import EvidenceEstimate
from pyro_compvae.evidence.fitting.gaussian import Fit, fit_gaussian
from pyro_compvae.evidence.importance import (
    importance_log_evidence,
    plain_and_symmetric_log_evidence,
    proposal_log_evidence,
)

__all__ = [
    "ConditionalEvidence",
    "EvidenceEstimate",
    "Fit",
    "Sandwich",
    "annealed_log_evidence",
    "bidirectional_log_evidence",
    "conditional_log_evidence",
    "fit_gaussian",
    "importance_log_evidence",
    "plain_and_symmetric_log_evidence",
    "proposal_log_evidence",
    "simulate",
]
