"""Pareto-smoothed importance sampling, by whichever version of ArviZ is installed."""

from __future__ import annotations

import math
from importlib.metadata import version

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ARVIZ = int(version("arviz").partition(".")[0])
"""Major version of the installed ArviZ: 0 up to Python 3.11, and 1 from 3.12 on."""

MIN_DRAWS = 30
"""Least number of draws for k̂. With fewer, the tail has less than six draws, and ArviZ 1.x fits nothing."""

NEGLIGIBLE_WEIGHT = 1e4
"""Log weights more nats than this below the largest, -inf among them, count for nothing in float64."""

ROUNDING = 1e-6
"""Log weights that differ by no more nats than this count as equal."""

MIN_TAIL = 5
"""Least number of draws of a tail. If that many have the largest weight of all, it is taken for a bound."""


def pareto_smoothed(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Smooth the largest importance weights by a generalised Pareto distribution (Vehtari et al. 2024).

    Args:
        log_weights: (L, B), nats.

    Returns:
        The log weights, with the largest values replaced by expected order statistics, and k̂ (B,). If there are too
        few draws or no weight is positive, the weights are not smoothed and k̂ is NaN. If nothing lies above the tail's
        lower end, because many independent draws have the largest weight, as with a few discrete latents, weights are
        bounded and k̂ is -inf; so it is if all weights are equal.
    """
    if len(log_weights) < MIN_DRAWS:
        return log_weights, torch.full_like(log_weights[0], math.nan)
    raw = log_weights.detach().double().T.contiguous().cpu().numpy()
    largest = raw.max(-1, keepdims=True)
    nothing = np.isneginf(largest)
    finite = np.where(nothing, 0.0, np.maximum(raw, largest - NEGLIGIBLE_WEIGHT))
    smoothed, khat = _psis(finite)
    # ArviZ normalises the weights; the smallest one, which is never smoothed, tells by how much.
    smallest = finite.argmin(-1, keepdims=True)
    smoothed += np.take_along_axis(finite, smallest, -1) - np.take_along_axis(smoothed, smallest, -1)
    smoothed = np.where(nothing | (raw < finite), raw, smoothed)
    # ArviZ finds no tail and returns inf if the largest weights are equal, although such weights vary least.
    tied = (finite >= finite.max(-1, keepdims=True) - ROUNDING).sum(-1) >= MIN_TAIL
    khat[(np.isposinf(khat) & tied) | (np.ptp(finite, -1) <= ROUNDING)] = -np.inf
    khat[nothing.squeeze(-1)] = np.nan
    return torch.from_numpy(smoothed.T.copy()).to(log_weights), torch.from_numpy(khat).to(log_weights)


def _psis(log_weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Normalised smoothed log weights (B, L) and k̂ (B,) of log weights (B, L)."""
    if ARVIZ < 1:
        import arviz  # imported here because it takes seconds, and only estimates of evidence need it

        smoothed, khat = arviz.psislw(log_weights)
    else:
        smoothed, khat = (np.stack(parts) for parts in zip(*map(_psis_of_one, log_weights), strict=True))
    return np.array(smoothed, dtype=np.float64), np.array(khat, dtype=np.float64)


def _psis_of_one(log_weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same for a single scene (L,) by ArviZ 1.x; if the tail has nothing to fit, k̂ = inf, as in ArviZ 0.2x."""
    from arviz_stats.base import array_stats

    try:
        smoothed, khat = array_stats.psislw(-log_weights)  # the function expects log-likelihoods of held-out data
    except ValueError:  # all of the largest weights are the same
        khat = np.array(np.nan)
    if np.isnan(khat):
        return log_weights - np.logaddexp.reduce(log_weights), np.array(np.inf)
    return smoothed, khat
