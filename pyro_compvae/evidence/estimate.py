"""Estimates of log p(x) from importance weights, and how far to believe them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence.pareto import pareto_smoothed

RELIABLE, USABLE = 0.7, 1.0
"""Bands of k̂ (Vehtari et al. 2024): below 0.7 the smoothed estimate converges fast enough, and above 1 not at all."""


def reliable_khat(num_samples: int) -> float:
    """The k̂ below which L draws are enough: min(1 − 1 / log10 L, 0.7) (Vehtari et al. 2024).

    >>> [round(reliable_khat(L), 2) for L in (30, 100, 1_000, 10_000)]
    [0.32, 0.5, 0.67, 0.7]
    """
    return min(1 - 1 / math.log10(num_samples), RELIABLE) if num_samples > 1 else -math.inf


class EvidenceEstimate(NamedTuple):
    """log p(x) of B scenes from L weighted draws each, in nats.

    log_evidence: (B,), log of the mean weight. The mean weight is unbiased, so its log is a lower bound in
        expectation.
    standard_error: (B,), that of log_evidence, by the delta method. It ignores regions that no draw has reached, so it
        means something only if khat is below 0.7.
    khat: (B,), shape of the generalised Pareto distribution fitted to the largest weights. Below `reliable_khat`, which
        is 0.7 with 2,200 draws or more, the estimate is reliable. Up to 1 it converges slowly and is biased low. Above
        1 the draws do not even show that the mean weight is finite. It is NaN with too few draws.
    ess: (B,), effective sample size 1 / Σ w̄², at most L.
    log_weights: (L, B), the log weights of the draws.
    """

    log_evidence: Tensor
    standard_error: Tensor
    khat: Tensor
    ess: Tensor
    log_weights: Tensor

    @property
    def elbo(self) -> Tensor:
        """Mean log weight, (B,), which is the bound whose slack is the KL divergence from proposal to posterior."""
        return self.log_weights.mean(0)

    @property
    def reliable(self) -> Tensor:
        """Whether khat is below `reliable_khat` of the number of draws, (B,)."""
        return self.khat < reliable_khat(len(self.log_weights))

    def iwae(self, num_samples: int) -> Tensor:
        """The importance-weighted bound with this many samples (Burda et al. 2016), (B,), a mean over groups of draws.

        Raises:
            ValueError: unless num_samples is from 1 to L.
        """
        L = len(self.log_weights)
        if not 1 <= num_samples <= L:
            raise ArgumentError(f"num_samples: expected 1 to {L}, the draws there are, got {num_samples}")
        groups = self.log_weights[: L - L % num_samples].unflatten(0, (-1, num_samples))
        return log_mean_exp(groups, dim=1).mean(0)

    def jackknife(self) -> Tensor:
        """log p(x) without the bias of order 1/L (Nowozin 2018, JVI-1), (B,). It is no bound, and it varies more.

        Raises:
            ValueError: with a single draw, which cannot be left out.
        """
        L = len(self.log_weights)
        if L < 2:
            raise ArgumentError(f"jackknife: expected at least 2 draws, got {L}")
        others = leave_one_out_logsumexp(self.log_weights) - math.log(L - 1)
        return L * self.log_evidence - (L - 1) * others.mean(0)

    def smoothed(self) -> Tensor:
        """log p(x) from Pareto-smoothed weights (Vehtari et al. 2024), (B,), with less variance and a little bias."""
        return log_mean_exp(pareto_smoothed(self.log_weights)[0])

    def verdict(self) -> str:
        """A sentence that says how far to believe the estimates."""
        B, good = len(self.khat), int(self.reliable.sum())
        if bool(self.khat.isnan().all()):
            return f"{len(self.log_weights)} draws are too few to tell whether to believe the estimates"
        bad = int((self.khat >= USABLE).sum())
        threshold = f"{reliable_khat(len(self.log_weights)):.2g}"
        ess = f"median effective sample size {float(self.ess.median()):.0f} of {len(self.log_weights)}"
        if good == B:
            return f"believe it: k̂ < {threshold} for all {B} scenes, {ess}"
        return (
            f"believe {good} of {B} scenes (k̂ < {threshold}); {B - good - bad} are biased low by an unknown amount, "
            f"{bad} are lower bounds and no more (k̂ ≥ {USABLE:g}); {ess}"
        )


def estimate_from_log_weights(log_weights: Tensor) -> EvidenceEstimate:
    """Evidence estimates of log importance weights (L, B), nats.

    If log weights are s ε with ε standard normal, log p(x) is s²/2. A spread of half a nat is easy, one of four is not:

    >>> noise = torch.randn(1000, 1, generator=torch.Generator().manual_seed(2))
    >>> easy, hard = (estimate_from_log_weights(s * noise) for s in (0.5, 4.0))
    >>> [round(float(e.log_evidence), 2) for e in (easy, hard)]  # the true values are 0.125 and 8
    [0.15, 6.76]
    >>> [round(float(e.khat), 1) for e in (easy, hard)]
    [0.2, 1.8]
    >>> easy.verdict()
    'believe it: k̂ < 0.67 for all 1 scenes, median effective sample size 786 of 1000'
    """
    log_weights = log_weights.double()
    L = len(log_weights)
    log_evidence = log_mean_exp(log_weights)
    squares = torch.softmax(log_weights, dim=0).square().sum(0)
    # This is Var(mean weight) / (mean weight)², with the unbiased variance.
    relative_variance = (squares - 1 / L).clamp(min=0) * L / max(L - 1, 1)
    standard_error = relative_variance.sqrt() if L > 1 else torch.full_like(log_evidence, math.nan)
    return EvidenceEstimate(log_evidence, standard_error, pareto_smoothed(log_weights)[1], 1 / squares, log_weights)


def log_mean_exp(values: Tensor, dim: int = 0) -> Tensor:
    """log of the mean of exp(values) along a dimension."""
    return torch.logsumexp(values, dim) - math.log(values.shape[dim])


def leave_one_out_logsumexp(values: Tensor, dim: int = 0) -> Tensor:
    """log Σ_{j≠i} exp(values_j) for every i along a dimension, of the shape of `values`.

    It uses cumulative sums from both sides, so nothing is subtracted and nothing cancels where one value dominates. It
    is for many values, such as draws. For a few slots of images the loop in `pyro_compvae.guides.refinement.evaluation`
    takes a sixth of the time, and rounds differently.
    """
    nothing = torch.full_like(values.narrow(dim, 0, 1), -torch.inf)
    before = values.logcumsumexp(dim).narrow(dim, 0, values.shape[dim] - 1)
    after = values.flip(dim).logcumsumexp(dim).flip(dim).narrow(dim, 1, values.shape[dim] - 1)
    return torch.logaddexp(torch.cat((nothing, before), dim), torch.cat((after, nothing), dim))
