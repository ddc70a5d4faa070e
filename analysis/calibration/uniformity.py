"""A test of uniformity by ECDF differences with simultaneous bands (Säilynoja, Bürkner & Vehtari 2022).

ArviZ has such bands from 1.x on, which needs Python 3.12. This module works with all versions, and also gives a
p-value.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from pyro_compvae.errors import ArgumentError

Array = NDArray[np.float64]

MAX_POINTS = 100
"""Largest number of points at which an ECDF is compared."""

SIMULATIONS = 4000
"""Number of draws of the null distribution; p-values are no smaller than one over this number."""


class Uniformity(NamedTuple):
    """The ECDF of N numbers in [0, 1] against that of the uniform distribution.

    points: the points at which it was compared.
    difference: ECDF − uniform CDF at these points.
    lower, upper: the band that contains the whole difference of uniform numbers with the probability asked for.
    p_value: the p-value of the widest excursion, for one set of numbers.
    """

    points: Array
    difference: Array
    lower: Array
    upper: Array
    p_value: float

    @property
    def inside(self) -> bool:
        """Whether the difference lies within its band everywhere."""
        return bool(((self.difference >= self.lower - 1e-12) & (self.difference <= self.upper + 1e-12)).all())


def uniformity(values: Array, probability: float = 0.95) -> Uniformity:
    """Compare numbers with the uniform distribution.

    The statistic is the smallest pointwise tail probability of the ECDF, which is binomial; its distribution under
    uniformity is simulated, always with the same random numbers.

    Args:
        values: N continuous numbers in [0, 1].
        probability: the probability of the band, simultaneously at all points.

    Raises:
        ValueError: for no numbers, numbers outside of [0, 1], or a probability outside of (0, 1).
    """
    values = np.asarray(values, dtype=np.float64).ravel()
    if len(values) == 0 or not bool(((values >= 0) & (values <= 1)).all()):
        raise ArgumentError(
            f"values: expected numbers in [0, 1], got {len(values)} of which some are not, or none at all"
        )
    if not 0 < probability < 1:
        raise ArgumentError(f"probability: expected one between 0 and 1, got {probability}")
    N = len(values)
    points, null = _null_distribution(N)
    counts = np.searchsorted(np.sort(values), points, side="right")
    tail = _smallest_tail(counts[None], N, points)[0]
    p_value = (1 + int((null <= tail + 1e-12).sum())) / (1 + len(null))
    level = float(np.quantile(null, 1 - probability))
    lower, upper = (binom.ppf(q, N, points) / N - points for q in (level, 1 - level))
    return Uniformity(points, counts / N - points, lower, upper, p_value)


@lru_cache(maxsize=16)
def _null_distribution(N: int) -> tuple[Array, Array]:
    """The points for N numbers, and the statistics of SIMULATIONS simulated sets of N uniform numbers."""
    num_points = min(N, MAX_POINTS)
    points = np.arange(1, num_points + 1) / (num_points + 1)
    # The counts of N uniform numbers up to every point are sums of multinomial counts between the points.
    between = np.random.default_rng(0).multinomial(N, np.full(num_points + 1, 1 / (num_points + 1)), SIMULATIONS)
    return points, _smallest_tail(between.cumsum(1)[:, :-1], N, points)


def _smallest_tail(counts: NDArray[np.int64], N: int, points: Array) -> Array:
    """The smallest of P(Bin ≤ count) and P(Bin ≥ count) over points, (M,), for counts (M, points)."""
    return np.minimum(binom.cdf(counts, N, points), binom.sf(counts - 1, N, points)).min(1)
