"""The log-evidence of some views given others."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence.estimate import EvidenceEstimate


class ConditionalEvidence(NamedTuple):
    """log p(x_query | x_observed) of B scenes, in nats.

    log_evidence, standard_error: (B,).
    reliable: (B,), whether both estimates behind it are reliable.
    """

    log_evidence: Tensor
    standard_error: Tensor
    reliable: Tensor


def conditional_log_evidence(joint: EvidenceEstimate, observed: EvidenceEstimate) -> ConditionalEvidence:
    """log p(x_query | x_observed) = log p(x_query, x_observed) − log p(x_observed).

    Both estimates are low in expectation, so their difference is no bound: either of them, if it is bad, makes it wrong
    in its own direction.

    Args:
        joint: the estimate for all views of each scene.
        observed: the estimate for the observed views, from separate draws.

    Raises:
        ValueError: if their numbers of scenes differ.
    """
    if joint.log_evidence.shape != observed.log_evidence.shape:
        raise ArgumentError(
            f"observed: expected an estimate of the {len(joint.log_evidence)} scenes of joint, got "
            f"{len(observed.log_evidence)}"
        )
    return ConditionalEvidence(
        joint.log_evidence - observed.log_evidence,
        torch.hypot(joint.standard_error, observed.standard_error),
        joint.reliable & observed.reliable,
    )
