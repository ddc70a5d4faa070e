"""The figure of estimates against draws."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest
import torch

from pyro_compvae.analysis.evidence.figure import draw_counts, evidence_figure
from pyro_compvae.evidence.estimate import estimate_from_log_weights


@pytest.mark.parametrize(
    ("num_samples", "counts"), [(1, [1]), (2, [1, 2]), (40, [1, 2, 5, 10, 20, 40]), (100, [1, 2, 5, 10, 20, 50, 100])]
)
def test_counts_end_with_all_draws(num_samples: int, counts: list[int]) -> None:
    assert draw_counts(num_samples) == counts


@pytest.mark.parametrize("num_scenes", [1, 3])
def test_a_line_per_estimator(tmp_path: Path, num_scenes: int) -> None:
    estimates = {
        name: estimate_from_log_weights(spread * torch.randn(50, num_scenes)) for name, spread in (("a", 3), ("b", 1))
    }
    path = tmp_path / "evidence.png"
    evidence_figure(path, estimates, "title")
    picture = matplotlib.image.imread(path)
    assert picture.shape[2] == 4
    assert picture[..., :3].std() > 0.05
