"""The evidence of some observations given others, on a model where both are known."""

from __future__ import annotations

import pytest
import torch
from helpers.slot_models import FactorisedGuide, LinearGaussian

from pyro_compvae.evidence import conditional_log_evidence, importance_log_evidence


def test_the_closed_form_is_met() -> None:
    model = LinearGaussian(num_slots=2, latent_dim=2, observed_dim=4, scale=0.8)
    part = LinearGaussian(num_slots=2, latent_dim=2, observed_dim=3, scale=0.8)
    part.weight, part.bias = model.weight[:3], model.bias[:3]
    x = model.simulate(3)
    joint, observed = (
        importance_log_evidence(m, FactorisedGuide(m, widening=1.2), y, num_samples=20_000, chunk_size=5_000)
        for m, y in ((model, x), (part, x[:, :3]))
    )
    conditional = conditional_log_evidence(joint, observed)
    expected = model.log_evidence(x) - part.log_evidence(x[:, :3])
    assert (conditional.standard_error < 0.05).all()
    assert ((conditional.log_evidence - expected).abs() < 4 * conditional.standard_error).all()
    assert (expected.abs() > 0.5).any(), "zero would pass too"
    assert conditional.reliable.all()
    doubtful = joint._replace(khat=torch.tensor([0.1, 0.9, 0.1]))
    assert conditional_log_evidence(doubtful, observed).reliable.tolist() == [True, False, True]
    assert conditional_log_evidence(joint, doubtful).reliable.tolist() == [True, False, True]


def test_estimates_of_other_scenes_are_refused() -> None:
    model = LinearGaussian(num_slots=2, latent_dim=1)
    three, two = (
        importance_log_evidence(model, FactorisedGuide(model), model.simulate(B), num_samples=30) for B in (3, 2)
    )
    with pytest.raises(ValueError, match="observed: expected an estimate of the 3 scenes of joint, got 2"):
        conditional_log_evidence(three, two)
