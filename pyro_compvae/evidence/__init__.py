"""Estimates of log p(x) that can be believed, or that say that they cannot."""

from pyro_compvae.evidence.estimate import EvidenceEstimate
from pyro_compvae.evidence.importance import importance_log_evidence, proposal_log_evidence

__all__ = ["EvidenceEstimate", "importance_log_evidence", "proposal_log_evidence"]
