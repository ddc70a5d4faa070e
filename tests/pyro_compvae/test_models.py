"""The scene model as a Pyro program."""

from __future__ import annotations

import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Predictive

from pyro_compvae import SceneModel, SpatialBroadcastDecoder

B, K, D = 3, 4, 5


@pytest.fixture
def model() -> SceneModel:
    return SceneModel(SpatialBroadcastDecoder(D, (8, 8), channels=(6, 6)), K)


def test_sites_and_shapes(model: SceneModel) -> None:
    x = torch.rand(B, 3, 8, 8)
    trace = poutine.trace(model).get_trace(x)
    trace.compute_log_prob()
    assert trace.nodes["z"]["value"].shape == (B, K, D)
    assert trace.nodes["z"]["log_prob"].shape == (B,)
    assert trace.nodes["x"]["log_prob"].shape == (B,)
    assert trace.nodes["x"]["is_observed"]
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(trace.nodes["z"]["value"]).sum((1, 2))
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], expected)


@pytest.mark.parametrize("training", [True, False])
def test_the_joint_does_not_depend_on_the_order_of_the_slots(model: SceneModel, training: bool) -> None:
    model.double().train(training)
    x, z = torch.rand(B, 3, 8, 8, dtype=torch.float64), torch.randn(B, K, D, dtype=torch.float64)
    order = [2, 0, 3, 1]
    joints = [
        poutine.trace(poutine.condition(model, {"z": slots})).get_trace(x).log_prob_sum() for slots in (z, z[:, order])
    ]
    torch.testing.assert_close(*joints)


def test_simulation_and_prior_predictive(model: SceneModel) -> None:
    assert model(num_scenes=2).shape == (2, 3, 8, 8)
    draws = Predictive(model, num_samples=6, parallel=True)(None, num_scenes=2)
    assert draws["z"].shape == (6, 2, K, D)
    assert draws["x"].shape == (6, 2, 3, 8, 8)


def test_wrong_images_are_refused(model: SceneModel) -> None:
    with pytest.raises(ValueError, match=r"x: expected images \(B, 3, 8, 8\) .* got \(2, 3, 8, 9\) float32"):
        model(torch.zeros(2, 3, 8, 9))
    with pytest.raises(ValueError, match="got neither"):
        model()
