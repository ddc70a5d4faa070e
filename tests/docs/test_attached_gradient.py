"""The measurement of what detached inputs leave out of the gradient runs, and its numbers are cosines and norms."""

from __future__ import annotations

import torch
from helpers.scripts import EXAMPLES, RESULTS, load_script


def test_it_measures_both_gradients() -> None:
    script = load_script("attached_gradient", EXAMPLES)
    found = script.main(str(RESULTS / "iodine-sprites-lnms-seed0"), num_batches=2, batch_size=2)
    per_batch, norms, of_g, of_r, of_means = found.values()
    assert per_batch.shape == norms.shape == (2,)
    assert of_g.shape == of_r.shape == (1,)
    for cosine in (per_batch, of_g, of_r, of_means):
        assert (cosine.abs() <= 1 + 1e-6).all()
    assert (per_batch < 0.9999).all(), "the two gradients are the same, so nothing was attached"
    torch.testing.assert_close(script.cosines(torch.eye(3)), torch.zeros(3))
