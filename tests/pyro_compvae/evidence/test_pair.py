"""Pairs of a model and a guide whose weights would be wrong, beside pairs whose evidence is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.contrib.easyguide import EasyGuide
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.evidence import EvidenceEstimate, TraceError, importance_log_evidence, refined_log_evidence
from pyro_compvae.evidence.refined import RefinedConfig

X = torch.tensor([0.3, -1.0, 2.0, 0.7], dtype=torch.float64)
COUNTS = torch.tensor([0.0, 3.0, 7.0, 1.0], dtype=torch.float64)
ONE = torch.ones((), dtype=torch.float64)
ZERO = torch.zeros((), dtype=torch.float64)


def line(x: Tensor) -> None:
    """z_b ~ N(0, 1), x_b ~ N(z_b, 1/2²), so that x_b ~ N(0, 5/4) and z_b | x_b ~ N(4/5 x_b, 1/5)."""
    with pyro.plate("scenes", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(ZERO, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def counts(x: Tensor) -> None:
    """rate_b ~ Gamma(2, 1), x_b ~ Poisson(rate_b)."""
    with pyro.plate("scenes", len(x), dim=-1):
        rate = pyro.sample("rate", dist.Gamma(2 * ONE, ONE))
        pyro.sample("x", dist.Poisson(rate), obs=x)


def waiting(x: Tensor) -> None:
    """rate_b ~ Exponential(1), x_b ~ Poisson(rate_b), so that p(x_b = n) = 2^-(n + 1)."""
    with pyro.plate("scenes", len(x), dim=-1):
        rate = pyro.sample("rate", dist.Exponential(ONE))
        pyro.sample("x", dist.Poisson(rate.abs()), obs=x)


def switch(x: Tensor) -> None:
    """s_b ~ Bernoulli(0.3), x_b ~ N(2 s_b, 1)."""
    with pyro.plate("scenes", len(x), dim=-1):
        s = pyro.sample("s", dist.Bernoulli(0.3 * ONE))
        pyro.sample("x", dist.Normal(2 * s, 1.0), obs=x)


def switch_guide(x: Tensor) -> None:
    with pyro.plate("scenes", len(x), dim=-1):
        pyro.sample("s", dist.Bernoulli((0.4 * ONE).expand_as(x)))


def estimate(
    model: Callable[..., Any], guide: Callable[..., Any], x: Tensor, num_samples: int = 4000
) -> EvidenceEstimate:
    return importance_log_evidence(model, guide, x, num_samples=num_samples, chunk_size=1000, symmetrise=False)


def assert_right(found: EvidenceEstimate, truth: Tensor) -> None:
    """The estimates are within four standard errors, which are small, and the weights' own verdict is good."""
    assert (found.standard_error < 0.05).all()
    assert ((found.log_evidence - truth).abs() < 4 * found.standard_error).all()
    assert found.verdict().startswith("believe it")


LINE = Normal(0.0, math.sqrt(1.25)).log_prob(X)


def in_plate(sample: Callable[[Tensor], object], dim: int = -1) -> Callable[[Tensor], None]:
    def guide(x: Tensor) -> None:
        with pyro.plate("scenes", len(x), dim=dim):
            sample(x)

    return guide


def normal(x: Tensor) -> Tensor:
    return pyro.sample("z", dist.Normal(0.8 * x, 0.5))


def stray(x: Tensor) -> None:
    u = pyro.sample("u", dist.Normal(0.8 * x, 0.1), infer={"is_auxiliary": True})
    pyro.sample("z", dist.Normal(u, 0.5))


def doubled(log_density: float) -> Callable[[Tensor], None]:
    """z = 2 u, with u drawn, and this log determinant of du/dz."""

    def sample(x: Tensor) -> None:
        u = pyro.sample("u", dist.Normal(0.4 * x, 0.3), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Delta(2 * u, log_density=torch.full_like(x, log_density)))

    return sample


def stray_beside_a_delta(x: Tensor) -> None:
    pyro.sample("v", dist.Normal(x, 1.0), infer={"is_auxiliary": True})
    doubled(-math.log(2))(x)


def detached(x: Tensor) -> None:
    u = pyro.sample("u", dist.Normal(0.4 * x, 0.3), infer={"is_auxiliary": True})
    pyro.sample("z", dist.Delta(u.round()))


def auto(kind: Callable[..., Any], **options: Any) -> Any:
    guide = kind(line, init_loc_fn=lambda site: 0.8 * X, **options)
    guide(X)
    return guide.eval()


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (auto(AutoDelta), r"a density, got a Delta at \['z'\].* AutoDelta gives no weights.* AutoNormal"),
        (in_plate(lambda x: pyro.sample("z", dist.Delta(0.8 * x))), "guide: .* got a Delta at"),
        (in_plate(stray), r"as many dimensions as the Deltas \[\].* got 1 at \['u'\] and 0; .* sum them out"),
        (in_plate(stray_beside_a_delta), r"as many dimensions as the Deltas \['z'\].* got 2 at \['v', 'u'\] and 1"),
        (in_plate(doubled(0.0)), r"to hold the log determinant.* log-density that is 0\.6931 nats off"),
        (in_plate(detached), r"to hold the log determinant"),
        (
            in_plate(lambda x: normal(x[:, None]), dim=-2),
            r"'z' with the model's plates \[\('scenes', -1, 4\)\], got \[\('scenes', -2, 4\)\]",
        ),
        (in_plate(normal, dim=-2), r"the batch shape \(4, 1\) of its plates at 'z', got \(4, 4\)"),
        (
            in_plate(lambda x: pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))),
            r"'z' with the model's event shape \(\), got \(2,\)",
        ),
        (
            in_plate(lambda x: pyro.sample("z", dist.Normal(torch.zeros(2, 1, 4).double(), 1.0))),
            r"guide: expected the batch shape \(4,\) of its plates at 'z', got \(2, 1, 4\); .* \.to_event",
        ),
        (poutine.mask(in_plate(normal), mask=False), "guide: expected the whole log-probability of 'z', got a mask"),
        (
            in_plate(lambda x: pyro.sample("z", dist.Normal(0.8 * x, 0.5).mask(x > 0))),
            "guide: expected the whole log-probability of 'z', got a mask",
        ),
        (in_plate(lambda x: pyro.sample("z", dist.Poisson(x.abs()))), "'z' to be continuous, .* got discrete"),
    ],
)
def test_guides_whose_log_probability_is_no_density_are_refused(guide: Callable[..., None], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        estimate(line, guide, X, 10)


class Easy(EasyGuide):
    def guide(self, x: Tensor) -> None:
        with self.plate("scenes", len(x), dim=-1):
            self.group(match="z").sample("both", dist.Normal(0.8 * x.unsqueeze(-1), 0.5).to_event(1))


@pytest.mark.parametrize(
    "guide",
    [in_plate(normal), in_plate(doubled(-math.log(2))), auto(AutoNormal, init_scale=0.5), Easy(line).eval()],
    ids=["normal", "doubled", "auto", "easy"],
)
def test_guides_with_a_density_are_accepted_and_right(guide: Callable[..., None]) -> None:
    assert_right(estimate(line, guide, X), LINE)


def test_autoguides_of_bounded_sites_are_right() -> None:
    """The determinant of the change of variables is checked, and it is not zero."""
    guide = AutoNormal(counts, init_scale=0.6, init_loc_fn=lambda site: 2 * ONE.expand(4))
    guide(COUNTS)
    truth = dist.GammaPoisson(2 * ONE, ONE).log_prob(COUNTS)
    found = estimate(counts, guide.eval(), COUNTS, 20_000)
    assert ((found.log_evidence - truth).abs() < 5 * found.standard_error)[[0, 1, 3]].all()


def test_a_point_estimate_is_a_start_for_a_fit() -> None:
    """Where the guide's density does not enter the weights, a Delta is accepted."""
    config = RefinedConfig(num_chains=0, num_samples=1000, chunk_size=1000)
    found = refined_log_evidence(line, auto(AutoDelta), X, config=config)
    torch.testing.assert_close(found.log_evidence, LINE, rtol=0, atol=0.01)


def test_draws_outside_of_the_support_are_refused_if_the_model_weighs_them() -> None:
    """Exponential's density goes on below zero."""
    with pytest.raises(TraceError, match=r"draws of 'rate' in the model's support .* got others"):
        estimate(waiting, in_plate(lambda x: pyro.sample("rate", dist.Normal(0.5 * x + 0.5, 0.9))), COUNTS)
    guide = in_plate(lambda x: pyro.sample("rate", dist.Gamma(x + 1, 1.8 * ONE)))
    assert_right(estimate(waiting, guide, COUNTS), -(COUNTS + 1) * math.log(2))


def test_a_mask_of_a_latent_site_is_refused_and_one_of_the_images_is_not() -> None:
    with pytest.raises(TraceError, match="model: expected the whole log-probability of 'z', got a mask"):
        estimate(poutine.mask(line, mask=torch.zeros(4, dtype=torch.bool)), in_plate(normal), X)

    def unseen(x: Tensor) -> None:
        with pyro.plate("scenes", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(ZERO, 1.0))
            pyro.deterministic("half", z / 2)
            with poutine.mask(mask=x > 0):
                pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    prior = in_plate(lambda x: pyro.sample("z", dist.Normal(ZERO.expand_as(x), 1.0)))
    assert_right(estimate(unseen, prior, X), torch.where(X > 0, LINE, 0))


@pytest.mark.parametrize("share", [0.4, 0.05, 0.95])
def test_weights_of_a_discrete_latent_are_bounded_and_no_false_alarm(share: float) -> None:
    """There are two weights per scene, each of which many draws have."""
    guide = in_plate(lambda x: pyro.sample("s", dist.Bernoulli(torch.full_like(x, share))))
    found = estimate(switch, guide, X)
    off, on = Normal(0.0, 1.0).log_prob(X) + math.log(0.7), Normal(2.0, 1.0).log_prob(X) + math.log(0.3)
    assert (found.khat < 0).all()
    error = (found.log_evidence - torch.logaddexp(off, on)).abs()
    assert (error < 4 * found.standard_error).all()
    assert found.verdict().startswith("believe it")
