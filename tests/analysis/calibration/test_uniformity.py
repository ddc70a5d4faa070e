"""ECDF bands and p-values: their error rates, and the faults that they find."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from pyro_compvae.analysis.calibration.uniformity import uniformity


def test_error_rates_are_those_stated() -> None:
    rng = np.random.default_rng(1)
    found = [uniformity(rng.uniform(size=60), probability=0.9) for _ in range(600)]
    alarms = sum(one.p_value <= 0.05 for one in found)
    outside = sum(not one.inside for one in found)
    low, high = binom.interval(0.999, 600, 0.05)
    assert low <= alarms <= high
    # The ECDF of 60 numbers takes few values, so the band's probability is at least what it should be.
    assert outside <= binom.ppf(0.9995, 600, 0.1)
    assert outside >= 0.3 * 600 * 0.1, "no wider than it need be"


def test_the_band_holds_what_the_p_value_accepts() -> None:
    rng = np.random.default_rng(2)
    for power in (1.0, 1.2, 1.5, 3.0):
        found = uniformity(rng.uniform(size=200) ** power, probability=0.95)
        assert found.inside == (found.p_value > 0.05)
    assert not found.inside


@pytest.mark.parametrize("centre", [0.0, 0.5, 1.0])
def test_numbers_that_crowd_are_found(centre: float) -> None:
    values = np.clip(centre + 0.15 * np.random.default_rng(3).standard_normal(100), 0, 1)
    assert uniformity(values).p_value < 0.001


def test_what_is_no_rank_is_refused() -> None:
    for bad in ([], [0.2, 1.1], [0.5, np.nan]):
        with pytest.raises(ValueError, match=r"values: expected numbers in \[0, 1\]"):
            uniformity(np.array(bad))
    with pytest.raises(ValueError, match="probability: expected one between 0 and 1, got 1"):
        uniformity(np.array([0.5]), probability=1)
