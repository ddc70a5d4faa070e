"""Posterior parameters: softplus and its inverse."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_compvae.guides.gaussian import Gaussian, inverse_softplus
from pyro_compvae.guides.mulmon import UNIT_RAW_SCALE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softplus_undoes_its_inverse(dtype: torch.dtype) -> None:
    scale = torch.tensor([0.01, 0.05, 1.0, 3.0], dtype=dtype)
    q = Gaussian(torch.zeros(4, dtype=dtype), inverse_softplus(scale)).distribution()
    torch.testing.assert_close(q.scale, scale)
    assert torch.equal(q.mean, torch.zeros(4, dtype=dtype))


def test_mulmon_starts_at_the_prior() -> None:
    assert abs(UNIT_RAW_SCALE - math.log(math.e - 1)) < 1e-15
