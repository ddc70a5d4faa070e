"""L-NMS against its formula, and the sign of its factor."""

from __future__ import annotations

import math
from itertools import permutations
from typing import get_args

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

from pyro_compvae import lnms_factor, lnms_log_density, slot_correlation
from pyro_compvae.lnms import LnmsForm, strength_of_sum


def test_correlation_is_the_cosine_of_every_pair() -> None:
    z = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    correlation = slot_correlation(z)
    assert correlation.shape == (2, 5, 3, 3)
    for h in range(3):
        for j in range(3):
            expected = torch.nn.functional.cosine_similarity(z[..., h, :], z[..., j, :], dim=-1)
            torch.testing.assert_close(correlation[..., h, j], expected)


def test_log_density_is_equation_3() -> None:
    """There are two orthogonal slots and a third at cosine 0.6 and 0.8; every unordered pair counts twice."""
    z = torch.tensor([[2.0, 0.0], [0.0, 5.0], [0.6, 0.8]], dtype=torch.float64)
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 0.2)
    cosines = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
    torch.testing.assert_close(lnms_log_density(z, 0.2), 2 * normal.log_prob(cosines).sum())


@pytest.mark.parametrize("form", get_args(LnmsForm))
def test_forms_pair_by_pair(form: LnmsForm) -> None:
    z = torch.randn(5, 4, 3, dtype=torch.float64)
    presence = torch.rand(5, 4, dtype=torch.float64)
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 0.3)
    expected = torch.zeros(5, dtype=torch.float64)
    for h, j in permutations(range(4), 2):
        term = normal.log_prob(torch.nn.functional.cosine_similarity(z[:, h], z[:, j], dim=-1))
        if form == "presence":
            term = presence[:, h] * presence[:, j] * (term - normal.log_prob(torch.zeros_like(term)))
        expected += term / (12 if form == "mean" else 1)
    weights = presence if form == "presence" else None
    torch.testing.assert_close(lnms_log_density(z, 0.3, form, weights), expected)
    if form != "presence":
        strength = strength_of_sum(0.7, form, 4)
        torch.testing.assert_close(strength * lnms_log_density(z, 0.3), 0.7 * expected)


def test_slots_that_are_not_there_pay_nothing() -> None:
    z = torch.randn(3, 4, requires_grad=True)
    presence = torch.tensor([0.0, 1.0, 0.0])
    value = lnms_log_density(z, form="presence", presence=presence)
    assert value == 0
    value.backward()
    assert torch.equal(z.grad, torch.zeros(3, 4))
    assert lnms_log_density(torch.randn(1, 4), form="mean") == 0


def test_one_slot_has_no_partner_and_zero_slots_no_direction() -> None:
    assert lnms_log_density(torch.randn(1, 4)) == 0
    z = torch.zeros(2, 4, requires_grad=True)
    value = lnms_log_density(z)
    torch.testing.assert_close(value, 2 * torch.distributions.Normal(0.0, 0.1).log_prob(torch.tensor(0.0)))
    value.backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_gradient_is_exact() -> None:
    z = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lnms_log_density, (z,))


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_factor_raises_the_objective_by_strength_times_lnms(elbo: type) -> None:
    """The loss is −ELBO − s·L_NMS, and its gradient with respect to the guide's mean is that of this sum."""
    mean = torch.tensor([[1.0, 0.2], [0.9, -0.3]], dtype=torch.float64, requires_grad=True)
    prior = dist.Normal(torch.zeros(2, 2, dtype=torch.float64), 1.0).to_event(2)

    def model() -> None:
        pyro.sample("z", prior)

    def guide(strength: float) -> Tensor:
        z = pyro.sample("z", dist.Normal(mean, 0.1).to_event(2))
        if strength:
            lnms_factor(z, strength)
        return z

    def loss(strength: float) -> Tensor:
        torch.manual_seed(3)
        return elbo().differentiable_loss(lambda: model(), lambda: guide(strength))

    torch.manual_seed(3)
    expected = 0.7 * lnms_log_density(guide(0.0))
    assert expected < -10, "the premise: overlapping slots are penalised"
    difference = loss(0.0) - loss(0.7)
    torch.testing.assert_close(difference, expected)
    torch.testing.assert_close(torch.autograd.grad(difference, mean)[0], torch.autograd.grad(expected, mean)[0])


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"z: expected slots \(\.\.\., K, D\), got \(4,\)"):
        lnms_log_density(torch.zeros(4))
    with pytest.raises(ValueError, match="scale: expected a positive standard deviation, got -1"):
        lnms_log_density(torch.zeros(2, 4), scale=-1)
    with pytest.raises(ValueError, match="form: expected one of sum, mean, presence, got 'max'"):
        lnms_log_density(torch.zeros(2, 4), form="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"presence: expected presences of the slots with form='presence' .*got none"):
        lnms_log_density(torch.zeros(2, 4), form="presence")
    with pytest.raises(ValueError, match=r"presence: expected presences .* and no other, got some"):
        lnms_log_density(torch.zeros(2, 4), presence=torch.ones(2))
    with pytest.raises(ValueError, match=r"form: expected sum or mean, .* got presence"):
        strength_of_sum(1.0, "presence", 4)
    assert math.isfinite(float(lnms_log_density(torch.ones(2, 4))))
