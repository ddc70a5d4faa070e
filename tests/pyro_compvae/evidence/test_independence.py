"""Models that mix draws or scenes, beside models whose evidence is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.evidence import LogJoint, TraceError, importance_log_evidence
from pyro_compvae.evidence.trace import prototype

X = torch.tensor([0.3, -1.0, 2.0, 0.7], dtype=torch.float64)


def slots(x: Tensor, mean: Callable[[Tensor], Tensor]) -> None:
    """z_b ~ N(0, I), event (2, 1), x_b ~ N(mean of z, 1/2²)."""
    with pyro.plate("scenes", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, 1).double(), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(mean(z), 0.5), obs=x)


def added(x: Tensor) -> None:
    """x_b ~ N(0, 2 + 1/4)."""
    slots(x, lambda z: z[..., 0, 0] + z[..., 1, 0])


def from_the_left(x: Tensor) -> None:
    """The same for a single draw (B, K, D); with draws to the left, z[:, 0] is the first scene."""
    slots(x, lambda z: z[:, 0].sum(-1) + z[:, 1].sum(-1))


def centred(x: Tensor) -> None:
    slots(x, lambda z: z.sum((-2, -1)) - z.sum((-2, -1)).mean(-1, keepdim=True))


def standardised(x: Tensor) -> None:
    added(x - x.mean())


def over_draws(x: Tensor) -> None:
    slots(x, lambda z: z.sum((-2, -1)) + (z.mean(0).sum((-2, -1)) if z.dim() > 3 else 0))


def of_four_scenes(x: Tensor) -> None:
    """Right, but it cannot be run for one of its scenes."""
    with pyro.plate("scenes", 4, dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, 1).double(), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z.sum((-2, -1)) + torch.zeros(4).double(), 0.5), obs=X)


class Guide:
    def posterior(self, x: Tensor) -> Normal:
        return Normal(torch.zeros(len(x), 2, 1).double(), 1.2)

    def __call__(self, x: Tensor) -> None:
        q = self.posterior(x)
        with pyro.plate("scenes", len(x), dim=-1):
            pyro.sample("z", dist.Normal(q.loc, q.scale).to_event(2))


@pytest.mark.parametrize("symmetrise", [False, True])
@pytest.mark.parametrize(
    ("model", "num_scenes", "message"),
    [
        (
            from_the_left,
            4,
            r"expected to take draws in one more dimension.* stops \(.*z\[\.\.\., 0, :\] and not z\[:, 0\]",
        ),
        (from_the_left, 2, r"expected a log joint that does not depend on other draws, got .* count dimensions from"),
        (from_the_left, 1, r"expected to take draws in one more dimension.* count dimensions from the right"),
        (over_draws, 4, r"that does not depend on other draws, got .* for it alone \(scene 3\)"),
        (
            centred,
            4,
            r"of every scene that does not depend on other scenes, got .* for scene 3 in a batch of 4 and ",
        ),
        (standardised, 4, "does not depend on other scenes"),
    ],
)
def test_models_that_mix_draws_or_scenes_are_refused(
    model: Callable[..., None], num_scenes: int, message: str, symmetrise: bool
) -> None:
    with pytest.raises(TraceError, match=message):
        importance_log_evidence(model, Guide(), X[:num_scenes], num_samples=10, symmetrise=symmetrise)


@pytest.mark.parametrize("symmetrise", [False, True])
@pytest.mark.parametrize("model", [added, of_four_scenes])
def test_other_models_are_right(model: Callable[..., None], symmetrise: bool) -> None:
    estimate = importance_log_evidence(model, Guide(), X, num_samples=4000, chunk_size=1000, symmetrise=symmetrise)
    truth = Normal(0.0, 1.5).log_prob(X)
    assert ((estimate.log_evidence - truth).abs() < 4 * estimate.standard_error).all()


def test_checks_take_no_random_numbers_and_few_evaluations() -> None:
    calls: list[int] = []

    def counted(*arguments: Any) -> None:
        calls.append(1)
        added(*arguments)

    torch.manual_seed(0)
    prototype(added, (X,), "model")
    expected = torch.get_rng_state()
    torch.manual_seed(0)
    log_joint = LogJoint(counted, X)
    log_joint.check_exchangeable()
    assert torch.equal(torch.get_rng_state(), expected)
    assert len(calls) == 5  # what the model is like; two draws; one of a scene alone; two orders of the slots
    log_joint.check_exchangeable()
    assert len(calls) == 5
    torch.manual_seed(0)
    weights = importance_log_evidence(added, Guide(), X, num_samples=5, symmetrise=False).log_weights
    torch.manual_seed(0)
    prototype(Guide(), (X,), "guide")
    q = Guide().posterior(X)
    z = q.loc + q.scale * torch.randn(5, *q.loc.shape, dtype=torch.float64)
    torch.testing.assert_close(weights, LogJoint(added, X)(z) - q.log_prob(z).sum((-2, -1)))
    assert math.isfinite(float(weights.sum()))
