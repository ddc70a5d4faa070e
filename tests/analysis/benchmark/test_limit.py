"""Counts of products agree with their published numbers of operations."""

from __future__ import annotations

import torch
from torch import nn

from pyro_compvae.analysis.benchmark.limit import measure_limit


def test_products_are_counted_forwards_and_backwards() -> None:
    conv = nn.Conv2d(3, 8, 3, padding=1)
    dense = nn.Linear(8, 5, bias=False)
    x = torch.randn(2, 3, 6, 6)

    def step() -> None:
        dense(conv(x).mean((-2, -1))).sum().backward()

    limit = measure_limit(step, min_run_time=1e-3)
    # x needs no gradient, so the convolution costs two passes: forwards, and for its weights.
    assert limit.flops == 2 * (2 * 2 * 6 * 6 * 8 * 3 * 9) + 3 * (2 * 2 * 8 * 5)
    assert limit.seconds > 0


def test_what_multiplies_nothing_has_no_limit() -> None:
    assert measure_limit(lambda: torch.ones(3).exp()) == (0, 0.0)
