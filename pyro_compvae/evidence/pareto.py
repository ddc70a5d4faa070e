"""Pareto-smoothed importance sampling, from whichever ArviZ is installed."""

from __future__ import annotations

import math

import arviz
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MIN_DRAWS = 25
"""With fewer, the tail has less than five draws, and ArviZ fits nothing."""


def pareto_smoothed(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Smooth the largest importance weights by a generalised Pareto distribution (Vehtari et al. 2024).

    Args:
        log_weights: (L, B), nats.

    Returns:
        The log weights, their largest values replaced by expected order statistics, and k̂ (B,); unsmoothed, and NaN,
        where the draws are too few.
    """
    if len(log_weights) < MIN_DRAWS:
        return log_weights, torch.full_like(log_weights[0], math.nan)
    raw = log_weights.detach().double().T.contiguous().cpu().numpy()
    smoothed, khat = _psis(raw)
    # ArviZ normalises; the smallest weight, which is never smoothed, tells by how much.
    smallest = raw.argmin(-1, keepdims=True)
    smoothed += np.take_along_axis(raw, smallest, -1) - np.take_along_axis(smoothed, smallest, -1)
    khat[np.ptp(raw, -1) == 0] = -np.inf  # ArviZ sees no tail to fit and says inf, but nothing varies less
    return torch.from_numpy(smoothed.T.copy()).to(log_weights), torch.from_numpy(khat).to(log_weights)


def _psis(log_weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(B, L) → normalised smoothed log weights (B, L) and k̂ (B,)."""
    if int(arviz.__version__.partition(".")[0]) < 1:
        smoothed, khat = arviz.psislw(log_weights)
    else:
        from arviz_stats.base import array_stats

        smoothed, khat = array_stats.psislw(-log_weights)  # 1.x expects log-likelihoods of held-out data
    return np.array(smoothed, dtype=np.float64), np.array(khat, dtype=np.float64)
