"""The scene models as Pyro programs."""

from __future__ import annotations

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Predictive, Trace_ELBO
from torch import Tensor

from pyro_compvae import DecoderConfig, MultiViewSceneModel, SceneModel, SpatialBroadcastDecoder
from pyro_compvae.models import IMAGES_SCORED

B, V, K, D = 3, 2, 4, 5


@pytest.fixture
def model() -> SceneModel:
    return SceneModel(SpatialBroadcastDecoder(D, (8, 8), DecoderConfig(channels=(6, 6))), K)


@pytest.fixture
def views_model() -> MultiViewSceneModel:
    decoder = SpatialBroadcastDecoder(D, (8, 8), DecoderConfig(channels=(6, 6)))
    return MultiViewSceneModel(decoder, K, view_dim=2, view_hidden=5, projector_hidden=7)


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


def test_multi_view_sites_and_shapes(views_model: MultiViewSceneModel) -> None:
    """There is one z per scene, and one image per view, scored at that z and the view's own camera."""
    x, viewpoints = torch.rand(B, V, 3, 8, 8), torch.rand(B, V, 3)
    trace = poutine.trace(views_model).get_trace(x, viewpoints)
    trace.compute_log_prob()
    plates = {name: site["fn"].size for name, site in trace.nodes.items() if name in ("scenes", "views")}
    assert plates == {"scenes": B, "views": V}
    z, site = trace.nodes["z"], trace.nodes["x"]
    assert z["value"].shape == (B, K, D)
    assert (z["fn"].batch_shape, z["fn"].event_shape) == ((B,), (K, D))
    assert (site["fn"].batch_shape, site["fn"].event_shape) == ((V, B), (3, 8, 8))
    assert site["is_observed"]
    torch.testing.assert_close(z["log_prob"], torch.distributions.Normal(0.0, 1.0).log_prob(z["value"]).sum((1, 2)))
    for b in range(B):
        for v in range(V):
            code = views_model.view_encoder(viewpoints[b, v])
            both = torch.cat((z["value"][b], code.expand(K, -1)), dim=1)
            expected = views_model.compose(views_model.projector(both)).log_prob(x[b, v])
            torch.testing.assert_close(site["log_prob"][v, b], expected)
    torch.testing.assert_close(trace.nodes["_RETURN"]["value"], x)


@pytest.mark.parametrize("training", [True, False])
def test_the_multi_view_joint_does_not_depend_on_the_order_of_the_slots(
    views_model: MultiViewSceneModel, training: bool
) -> None:
    views_model.double().train(training)
    x, viewpoints = torch.rand(B, V, 3, 8, 8, dtype=torch.float64), torch.rand(B, V, 3, dtype=torch.float64)
    z = torch.randn(B, K, D, dtype=torch.float64)

    def joint(slots: Tensor, cameras: Tensor) -> Tensor:
        return poutine.trace(poutine.condition(views_model, {"z": slots})).get_trace(x, cameras).log_prob_sum()

    torch.testing.assert_close(joint(z[:, [2, 0, 3, 1]], viewpoints), joint(z, viewpoints))
    assert (joint(z, viewpoints.flip(1)) - joint(z, viewpoints)).abs() > 1e-3, "cameras do not matter"


def test_multi_view_simulation(views_model: MultiViewSceneModel) -> None:
    viewpoints = torch.rand(B, V, 3)
    trace = poutine.trace(views_model).get_trace(None, viewpoints)
    assert not trace.nodes["x"]["is_observed"]
    images = trace.nodes["_RETURN"]["value"]
    assert images.shape == (B, V, 3, 8, 8)
    # The image of view v of scene b is σ away from its own mean, and farther from those of other views and scenes.
    with torch.no_grad():
        views_model.projector[-1].weight *= 30
        draws = [poutine.trace(views_model).get_trace(None, viewpoints) for _ in range(200)]
        images = torch.stack([draw.nodes["_RETURN"]["value"] for draw in draws])
        z = torch.stack([draw.nodes["z"]["value"] for draw in draws])
        for b in range(B):
            for v in range(V):
                mixture = views_model.likelihood(z[:, b], viewpoints[b, v])
                standardised = (images[:, b, v] - mixture.mean) / mixture.variance.sqrt()
                # 200 · 192 correlated values; a scene's K slots make its pixels dependent, scenes are independent.
                per_draw = standardised.square().mean((1, 2, 3))
                assert (per_draw.mean() - 1).abs() < 4 * per_draw.std() / len(draws) ** 0.5


def test_multi_view_particles_vectorise(views_model: MultiViewSceneModel) -> None:
    """Particles lie to the left of both plates, and each has an image of every view from its own z."""
    viewpoints = torch.rand(B, V, 3)
    with pyro.plate("particles", 6, dim=-3):
        trace = poutine.trace(views_model).get_trace(None, viewpoints)
    trace.compute_log_prob()
    z = trace.nodes["z"]["value"]
    assert z.shape == (6, 1, B, K, D)
    assert trace.nodes["x"]["fn"].batch_shape == (6, V, B)
    images = trace.nodes["_RETURN"]["value"]
    assert images.shape == (6, B, V, 3, 8, 8)
    for particle in range(6):
        expected = views_model.likelihood(z[particle, 0, 1], viewpoints[1, 0]).log_prob(images[particle, 1, 0])
        torch.testing.assert_close(trace.nodes["x"]["log_prob"][particle, 0, 1], expected)

    x, loc = torch.rand(B, V, 3, 8, 8), torch.randn(B, K, D)

    def almost_certain(x: Tensor, viewpoints: Tensor) -> Tensor:
        with pyro.plate("scenes", len(x), dim=-1):
            return pyro.sample("z", pyro.distributions.Normal(loc, 1e-6).to_event(2))

    elbos = [
        Trace_ELBO(num_particles=3, vectorize_particles=vectorised, max_plate_nesting=2).loss(
            views_model, almost_certain, x, viewpoints
        )
        for vectorised in (True, False)
    ]
    # In nats, samples differ only by log q(z), whose variance is K D / 2 for each scene.
    assert elbos[0] == pytest.approx(elbos[1], abs=5 * (B * K * D / 2 * 2 / 3) ** 0.5)
    assert abs(elbos[0]) > 1000


@pytest.mark.parametrize(
    ("message", "x", "viewpoints"),
    [
        (
            r"viewpoints: expected \(3, 2, 3\) of float32 to fit x, got \(3, 1, 3\)",
            torch.rand(B, V, 3, 8, 8),
            (B, 1, 3),
        ),
        (
            r"viewpoints: expected \(3, 2, 3\) of float32 to fit x, got \(3, 2, 2\)",
            torch.rand(B, V, 3, 8, 8),
            (B, V, 2),
        ),
        (r"x: expected views \(B, V, 3, 8, 8\) .* got \(3, 3, 8, 8\) float32", torch.rand(B, 3, 8, 8), (B, 3)),
        (r"x: expected views .* got \(3, 2, 3, 8, 8\) uint8", torch.ones(B, V, 3, 8, 8, dtype=torch.uint8), (B, V, 3)),
        (r"x: expected views .* got \(3, 0, 3, 8, 8\)", torch.rand(B, 0, 3, 8, 8), (B, 0, 3)),
        # In simulation an array with one axis too few would pass for views if there are as many scenes as coordinates.
        (r"viewpoints: expected \(B, V, 3\) of float32, got \(3, 3\)", None, (B, 3)),
        (r"viewpoints: expected \(B, V, 3\) of float32, got \(3, 2, 2\)", None, (B, V, 2)),
        (r"viewpoints: expected \(B, V, 3\) of float32, got \(3, 0, 3\)", None, (B, 0, 3)),
    ],
)
def test_bad_views_are_refused(
    views_model: MultiViewSceneModel, message: str, x: Tensor | None, viewpoints: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=message):
        views_model(x, torch.rand(viewpoints))


@pytest.mark.parametrize("scored", [True, False])
def test_images_that_the_guide_scores_are_left_out_where_the_model_is_replayed_against_it(
    model: SceneModel, views_model: MultiViewSceneModel, scored: bool
) -> None:
    z = torch.randn(B, K, D)

    def guide(*arguments: Tensor) -> None:
        with pyro.plate("scenes", B, dim=-1):
            pyro.sample("z", pyro.distributions.Delta(z, event_dim=2), infer={IMAGES_SCORED: scored})

    arguments: tuple[tuple[SceneModel | MultiViewSceneModel, tuple[Tensor, ...]], ...] = (
        (model, (torch.rand(B, 3, 8, 8),)),
        (views_model, (torch.rand(B, V, 3, 8, 8), torch.rand(B, V, 3))),
    )
    for whole, inputs in arguments:
        replayed = poutine.replay(whole, poutine.trace(guide).get_trace(*inputs))
        trace = poutine.trace(replayed).get_trace(*inputs)
        trace.compute_log_prob()
        observed = {name for name, site in trace.nodes.items() if site["type"] == "sample" and site["is_observed"]}
        assert observed == (set() if scored else {"x"})
        torch.testing.assert_close(
            trace.nodes["z"]["log_prob"], torch.distributions.Normal(0.0, 1.0).log_prob(z).sum((1, 2))
        )
        assert torch.equal(trace.nodes["_RETURN"]["value"], inputs[0])
        # Without a guide, and without observations, the site of images exists; in the latter case it is not scored.
        assert "x" in poutine.trace(whole).get_trace(*inputs).nodes
        nothing = {} if len(inputs) > 1 else {"num_scenes": B}
        simulated = poutine.trace(replayed).get_trace(None, *inputs[1:], **nothing)
        simulated.compute_log_prob()
        assert (simulated.nodes["x"]["log_prob_sum"] == 0) == scored


def test_the_number_of_slots_may_change(model: SceneModel, views_model: MultiViewSceneModel) -> None:
    for slots in (2, 9):
        model.num_slots = views_model.num_slots = slots
        trace = poutine.trace(model).get_trace(torch.rand(B, 3, 8, 8))
        assert trace.nodes["z"]["value"].shape == (B, slots, D)
        assert trace.nodes["x"]["fn"].log_masks.shape == (B, slots, 8, 8)
        trace = poutine.trace(views_model).get_trace(torch.rand(B, V, 3, 8, 8), torch.rand(B, V, 3))
        assert trace.nodes["z"]["value"].shape == (B, slots, D)
        assert trace.nodes["x"]["fn"].log_masks.shape == (V, B, slots, 8, 8)
