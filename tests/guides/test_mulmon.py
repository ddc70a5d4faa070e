"""The MulMON guide against a plain transcription of its objective, and as a Pyro guide."""

from __future__ import annotations

import math

import pyro
import pyro.poutine as poutine
import pytest
import torch
from helpers.gradients import assert_same_loss_and_gradients
from pyro.infer import Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from pyro_compvae import DecoderConfig, MultiViewSceneModel, SceneModel, SpatialBroadcastDecoder
from pyro_compvae.architectures import RefinementNetworkConfig
from pyro_compvae.guides import IodineGuide, MulmonGuide
from pyro_compvae.guides.reference import plain_mulmon_loss
from pyro_compvae.guides.refinement.network import RefinementNetwork

B, V, K, D, H, W, T = 2, 4, 3, 4, 8, 10, 3


def make_network(recurrent: bool, context_dim: int = 0, pooled_inputs: int = 1) -> RefinementNetwork:
    config = RefinementNetworkConfig(
        channels=(5, 7) if pooled_inputs == 1 else (5,),
        pooled_inputs=pooled_inputs,
        mlp=(9,),
        hidden=8,
        recurrent=recurrent,
        pooling="flatten",
        padded=False,
        activation="relu",
    )
    return RefinementNetwork(D, (H, W), config, context_dim)


def make_guide(
    lnms_strength: float = 0.0, recurrent: bool = True, context_dim: int = 0, turntable: bool = False
) -> MulmonGuide:
    decoder = SpatialBroadcastDecoder(D, (H, W), DecoderConfig(channels=(6, 6), padded=False, activation="relu"))
    model = MultiViewSceneModel(decoder, K, view_hidden=5, projector_hidden=11, turntable=turntable)
    network = make_network(recurrent, context_dim, 2 if turntable else 1)
    return MulmonGuide(model, network, T, max_observed=3, lnms_strength=lnms_strength)


def make_views(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.rand(B, V, 3, H, W, dtype=dtype), torch.rand(B, V, 3, dtype=dtype)


def replayed(seed: int, viewpoints: Tensor, max_queried: int = V) -> tuple[Tensor, int, Tensor, list[Tensor]]:
    """Repeat the guide's draws in train mode, in its order: noisy viewpoints, n, the order of the views, and noise."""
    torch.manual_seed(seed)
    noisy = viewpoints + 0.015 * torch.randn_like(viewpoints)
    n = int(torch.randint(1, 4, ()))
    order = torch.randperm(V)
    zeros = torch.zeros(B, K, D, dtype=torch.float64)
    noise = [torch.randn_like(zeros) for _ in range(n * T)]
    torch.normal(zeros, torch.ones_like(zeros))  # the site "z"
    noise += [torch.normal(zeros, torch.ones_like(zeros)) for _ in range(min(V - n, max_queried))]
    return noisy, n, order, noise


@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize("lnms_strength", [0.0, 0.8])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("context_dim", [0, 3])
def test_loss_and_gradients_equal_the_plain_two_pass_form(
    recurrent: bool, lnms_strength: float, seed: int, context_dim: int
) -> None:
    guide = make_guide(lnms_strength, recurrent, context_dim).double().train()
    x, viewpoints = make_views(torch.float64)
    torch.manual_seed(seed)
    loss = TraceMeanField_ELBO()(guide.model, guide)(x, viewpoints)

    noisy, n, order, noise = replayed(seed, viewpoints)
    plain = plain_mulmon_loss(guide, x[:, order], noisy[:, order], n, noise)
    assert_same_loss_and_gradients(loss, plain, guide)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("context_dim", [0, 3])
def test_latents_that_turn_are_refined_in_the_frame_of_the_camera(seed: int, context_dim: int) -> None:
    """The plain form has rotation matrices. One view is queried, with a weight; the KL from view to view is exact.

    The refinement network sees averages over 2×2 pixels.
    """
    guide = make_guide(0.8, context_dim=context_dim, turntable=True).double().train()
    guide.max_queried, guide.query_weight, guide.analytic_kl = 1, 0.7, True
    x, viewpoints = make_views(torch.float64)
    torch.manual_seed(seed)
    loss = TraceMeanField_ELBO()(guide.model, guide)(x, viewpoints)

    noisy, n, order, noise = replayed(seed, viewpoints, max_queried=1)
    seen, observed = order[: n + 1], order[:n]
    whole = plain_mulmon_loss(guide, x[:, seen], noisy[:, seen], n, noise)
    without_queries = plain_mulmon_loss(guide, x[:, observed], noisy[:, observed], n, noise[:-1])
    assert_same_loss_and_gradients(loss, 0.7 * whole + 0.3 * without_queries, guide)


@pytest.mark.parametrize("recurrent", [True, False])
def test_the_refinement_network_may_see_the_viewpoint(recurrent: bool) -> None:
    """The decoder ignores the camera, so turning it changes the posterior of one network and not of the other."""
    x, viewpoints = make_views()
    turned = viewpoints.flip(-1)
    for context_dim in (0, 3):
        guide = make_guide(recurrent=recurrent, context_dim=context_dim).eval()
        guide.model.projector = _FirstOnly()
        locs = []
        for seen_from in (viewpoints, turned):
            torch.manual_seed(0)
            locs.append(guide.posterior(x, seen_from).loc)
        assert torch.equal(*locs) == (context_dim == 0)


def test_the_seeds_above_cover_several_numbers_of_views() -> None:
    guide, (x, viewpoints) = make_guide().train(), make_views()
    counts = set()
    for seed in range(12):
        torch.manual_seed(seed)
        trace = poutine.trace(guide).get_trace(x, viewpoints)
        counts.add(sum(name.startswith("view_") for name in trace.nodes))
    assert counts == {1, 2, 3}


class _FirstOnly(nn.Module):
    """A projector that returns z, whatever the view's code is."""

    def forward(self, both: Tensor) -> Tensor:
        return both[..., :D]


@pytest.mark.parametrize("recurrent", [True, False])
def test_one_view_and_an_identity_projector_make_iodine(recurrent: bool) -> None:
    """λ after T − 1 updates equals IODINE's from the prior, except for the divergence that steers the updates.

    MulMON's is a log ratio at the sample, and IODINE's is the analytic KL; at β = 0 there is none, and they agree.
    """
    guide = make_guide(recurrent=recurrent).eval()
    guide.model.projector = _FirstOnly()
    iodine = IodineGuide(SceneModel(guide.model.decoder, K), guide.network, T - 1, initial_scale=1.0).eval()
    guide.kl_weight = iodine.kl_weight = 0.0
    x, viewpoints = make_views()
    torch.manual_seed(5)
    q = guide.posterior(x[:, :1], viewpoints[:, :1])
    torch.manual_seed(5)
    expected = iodine.posterior(x[:, 0])
    torch.testing.assert_close(q.loc, expected.loc)
    torch.testing.assert_close(q.scale, expected.scale)
    assert (q.loc.abs() > 1e-3).any(), "the posterior did not move, so the comparison proves nothing"


def test_eval_mode_is_plain_pyro() -> None:
    guide, (x, viewpoints) = make_guide(0.3).eval(), make_views()
    trace = poutine.trace(guide).get_trace(x, viewpoints)
    assert trace.nodes["z"]["value"].shape == (B, K, D)
    assert not [name for name in trace.nodes if name.startswith(("view_", "queries", "prior_kl", "lnms"))]
    model_trace = poutine.trace(poutine.replay(guide.model, trace)).get_trace(x, viewpoints)
    model_trace.compute_log_prob()
    z = trace.nodes["z"]["value"]
    for v in range(V):
        expected = guide.model.likelihood(z, viewpoints[:, v]).log_prob(x[:, v])
        torch.testing.assert_close(model_trace.nodes["x"]["log_prob"][v], expected)


def test_particles_and_predictions_vectorise() -> None:
    guide, (x, viewpoints) = make_guide().eval(), make_views()
    q = guide.posterior(x, viewpoints)

    def amortised(x: Tensor, viewpoints: Tensor) -> Tensor:
        """The guide at these views, which does not infer the posterior again for every particle."""
        with pyro.plate("scenes", len(x), dim=-1):
            return guide._sample(q)

    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=2)
    assert math.isfinite(elbo.loss(guide.model, amortised, x, viewpoints))
    draws = Predictive(guide.model, num_samples=2)(None, viewpoints)
    assert draws["z"].shape == (2, 1, B, K, D)  # a dimension of one for the views, which z does not have
    assert guide.model(None, viewpoints).shape == (B, V, 3, H, W)


class _GreyDecoder(SpatialBroadcastDecoder):
    """A decoder with D = 1 and equal masks: the slot's grey value is sigmoid(z)."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        means = torch.sigmoid(z)[..., None, None].expand(*z.shape[:-1], 3, *self.image_size)
        return means, 0 * means[..., :1, :, :]


def test_eval_elbo_is_a_bound() -> None:
    """For K = 2, D = 1 and two views, log p(x_1, x_2 | viewpoints) is computed by quadrature over the plane."""
    size = (8, 8)
    torch.manual_seed(1)
    decoder = _GreyDecoder(1, size, DecoderConfig(channels=(2,)))
    model = MultiViewSceneModel(decoder, 2, 1.0, view_hidden=4, projector_hidden=6)
    network = RefinementNetwork(1, size, RefinementNetworkConfig(channels=(4,), mlp=(), hidden=6))
    guide = MulmonGuide(model, network, T).eval()
    x, viewpoints = torch.rand(B, 2, 3, *size), torch.rand(B, 2, 3)
    grid = torch.linspace(-6, 6, 301)
    z = torch.cartesian_prod(grid, grid)[:, None, :, None]  # (L, 1, 2, 1)
    with torch.no_grad():
        log_joint = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum((2, 3)).expand(-1, B)
        for v in range(2):
            log_joint = log_joint + model.likelihood(z, viewpoints[:, v]).log_prob(x[:, v])
        evidence = log_joint.double().logsumexp(0) + 2 * math.log(12 / 300)
        samples = torch.tensor([-Trace_ELBO().loss(model, guide, x, viewpoints) for _ in range(200)])
    error = samples.std() / math.sqrt(len(samples))
    assert samples.mean() <= evidence.sum() + 3 * error
    assert samples.mean() > evidence.sum() - 20


@pytest.mark.parametrize(
    ("message", "x", "viewpoints"),
    [
        (r"x: expected views \(B, V, 3, 8, 10\).*got \(2, 3, 8, 10\)", torch.rand(2, 3, H, W), torch.rand(2, 3)),
        ("viewpoints: expected .*got none", torch.rand(B, V, 3, H, W), None),
        (
            r"viewpoints: expected \(2, 4, 3\) of float32 to fit x, got \(2, 3, 3\)",
            torch.rand(B, V, 3, H, W),
            torch.rand(B, 3, 3),
        ),
        (
            r"viewpoints: expected \(2, 4, 3\) of float32 to fit x, got \(2, 4, 3\) float64",
            torch.rand(B, V, 3, H, W),
            torch.rand(B, V, 3).double(),
        ),
        ("x: expected at least 2 views to train on", torch.rand(B, 1, 3, H, W), torch.rand(B, 1, 3)),
    ],
)
def test_bad_views_are_named(message: str, x: Tensor, viewpoints: Tensor) -> None:
    guide = make_guide().train()
    with pytest.raises(ValueError, match=message):
        guide(x, viewpoints)
