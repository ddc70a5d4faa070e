"""Estimates of log p(x) that say whether they can be believed.

Every estimator comes in two forms. One takes a pair of Pyro programs, (model, guide, *arguments):

    importance_log_evidence    annealed_log_evidence    refined_log_evidence

The other takes a density and a proposal for its slots, (log_joint, proposal):

    proposal_log_evidence      annealed                 refined_proposal_log_evidence

`refined_log_evidence` is the one to use.
"""

from pyro_compvae.evidence.annealing.bidirectional import Sandwich, bidirectional_log_evidence, simulate
from pyro_compvae.evidence.annealing.chains import (
    Annealing,
    TransitionProgress,
    annealed,
    annealed_log_evidence,
    default_start,
)
from pyro_compvae.evidence.annealing.config import AnnealingConfig
from pyro_compvae.evidence.conditional import ConditionalEvidence, conditional_log_evidence
from pyro_compvae.evidence.density import LogJoint
from pyro_compvae.evidence.estimate import EvidenceEstimate
from pyro_compvae.evidence.fitting.flow import FlowConfig, FlowFit, FlowProposal, fit_flow
from pyro_compvae.evidence.fitting.gaussian import Family, Fit, FitConfig, fit_gaussian
from pyro_compvae.evidence.importance import (
    importance_log_evidence,
    plain_and_symmetric_log_evidence,
    proposal_log_evidence,
)
from pyro_compvae.evidence.proposals.elliptical import Elliptical
from pyro_compvae.evidence.proposals.symmetric import (
    ExchangeableProposal,
    FactorisedProposal,
    JointProposal,
    Proposal,
    normal_proposal,
    standard_normal_proposal,
)
from pyro_compvae.evidence.refined import (
    RefinedConfig,
    annealed_from,
    cover,
    fit_and_cover,
    log_evidence_from,
    refined_log_evidence,
    refined_proposal_log_evidence,
)
from pyro_compvae.evidence.trace import TraceError
from pyro_compvae.evidence.unconstrained import UnconstrainedLogJoint

__all__ = [
    "Annealing",
    "AnnealingConfig",
    "ConditionalEvidence",
    "Elliptical",
    "EvidenceEstimate",
    "ExchangeableProposal",
    "FactorisedProposal",
    "Family",
    "Fit",
    "FitConfig",
    "FlowConfig",
    "FlowFit",
    "FlowProposal",
    "JointProposal",
    "LogJoint",
    "Proposal",
    "RefinedConfig",
    "Sandwich",
    "TraceError",
    "TransitionProgress",
    "UnconstrainedLogJoint",
    "annealed",
    "annealed_from",
    "annealed_log_evidence",
    "bidirectional_log_evidence",
    "conditional_log_evidence",
    "cover",
    "default_start",
    "fit_and_cover",
    "fit_flow",
    "fit_gaussian",
    "importance_log_evidence",
    "log_evidence_from",
    "normal_proposal",
    "plain_and_symmetric_log_evidence",
    "proposal_log_evidence",
    "refined_log_evidence",
    "refined_proposal_log_evidence",
    "simulate",
    "standard_normal_proposal",
]
