"""Leaving a view out, on a model whose prediction is known."""

from __future__ import annotations

import math

import arviz
import numpy as np
import pytest
import torch
import xarray
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.analysis.posterior.data_set import bundle
from pyro_compvae.analysis.posterior.loo import ViewsError, held_out_views, loo_over_views, loo_table
from pyro_compvae.data import load_scenes
from pyro_compvae.evidence.pareto import ARVIZ
from pyro_compvae.guides import build_guide
from pyro_compvae.runs.presets import preset


def exact_groups(x: np.ndarray, noise: float, num_draws: int) -> dict[str, xarray.Dataset]:
    """Posterior draws of scenes with one latent z ~ N(0, 1), seen as x_v ~ N(z, noise²) in V views: x (scene, view)."""
    rng = np.random.default_rng(0)
    precision = 1 + x.shape[1] / noise**2
    mean = x.sum(1) / noise**2 / precision
    z = mean + rng.standard_normal((4, num_draws, len(x))) / math.sqrt(precision)
    log_p = Normal(torch.from_numpy(z)[..., None], noise).log_prob(torch.from_numpy(x))
    coords = {"chain": range(4), "draw": range(num_draws), "scene": range(len(x)), "view": range(x.shape[1])}
    groups = {"log_likelihood": xarray.Dataset({"image": (tuple(coords), log_p.numpy())}, coords)}
    posterior = xarray.Dataset(
        {"z": (("chain", "draw", "scene"), z)}, {n: coords[n] for n in ("chain", "draw", "scene")}
    )
    return groups | {"posterior": posterior}


def draws_of(groups: dict[str, xarray.Dataset]) -> Tensor:
    """The log-likelihood (L, B, V)."""
    return torch.from_numpy(groups["log_likelihood"]["image"].values).flatten(0, 1)


def test_weighted_draws_predict_as_draws_from_the_posterior_do() -> None:
    x = torch.randn(2, 4, dtype=torch.float64)
    precision, mean = 5.0, x.sum(1) / 5.0
    proposal, posterior = Normal(mean + 0.1, 0.6), Normal(mean, precision**-0.5)
    z = proposal.sample((40_000,))
    log_p = Normal(z.unsqueeze(-1), 1.0).log_prob(x)
    data = loo_over_views(log_p, posterior.log_prob(z) - proposal.log_prob(z))
    others = Normal((x.sum(1, keepdim=True) - x) / 4.0, math.sqrt(1 / 4.0 + 1))
    np.testing.assert_allclose(data["elpd"], others.log_prob(x), atol=0.03)
    assert not np.allclose(loo_over_views(log_p)["elpd"], others.log_prob(x), atol=0.03), "the weights count"


def test_psis_loo_is_the_exact_prediction_of_a_gaussian_model() -> None:
    noise, V = 1.0, 5
    x = np.random.default_rng(1).standard_normal((3, V)) * 1.2
    groups = exact_groups(x, noise, 4000)
    data = loo_over_views(draws_of(groups))
    precision = 1 + (V - 1) / noise**2
    mean = (x.sum(1, keepdims=True) - x) / noise**2 / precision
    exact = Normal(torch.from_numpy(mean), math.sqrt(1 / precision + noise**2)).log_prob(torch.from_numpy(x))
    assert data["khat"].dims == ("scene", "view")
    assert float(data["khat"].max()) < 0.7
    np.testing.assert_allclose(data["elpd"], exact, atol=0.03)
    # ArviZ counts draws by their autocorrelation, which these have only by chance.
    loo = arviz.loo(bundle(groups), pointwise=True, var_name="image")
    np.testing.assert_allclose(data["elpd"], loo.loo_i if ARVIZ < 1 else loo.elpd_i, atol=1e-3)
    np.testing.assert_allclose(data["khat"], loo.pareto_k, atol=0.05)


def test_a_view_that_says_all_about_a_scene_is_told_by_khat() -> None:
    x = np.array([[0.0, 0.0, 0.5]])
    data = loo_over_views(draws_of(exact_groups(x, 0.02, 1000)))
    assert float(data["khat"].isel(view=2).item()) > 0.7
    text = loo_table(data.assign(held_out=data["elpd"] * 0 - 7.0, held_out_ess=data["elpd"] * 0 + 5.0))
    assert "reliable by k̂ for" in text
    assert "effective sample size 5" in text
    assert "-7.0 nats per view when the guide" in text


def test_views_held_out_are_predicted_from_the_others_alone() -> None:
    config = preset("tiny", "mulmon")
    guide = build_guide(config).eval()
    scenes = load_scenes(config.data, "test", multi_view=True)[:2]
    assert scenes.viewpoint is not None
    torch.manual_seed(0)
    before = held_out_views(guide, scenes.image, scenes.viewpoint, num_draws=3)["held_out"]
    assert before.shape == scenes.image.shape[:2]
    changed = scenes.image.clone()
    changed[:, 1] = 0.5
    torch.manual_seed(0)
    after = held_out_views(guide, changed, scenes.viewpoint, num_draws=3)["held_out"]
    # q(z | x_-1) knows nothing of view 1, so its prediction changes by the density of that image alone.
    torch.manual_seed(0)
    others = [v for v in range(scenes.image.shape[1]) if v != 1]
    with torch.no_grad():
        for v in (0, 1):
            rest = others if v == 1 else [w for w in range(scenes.image.shape[1]) if w != 0]
            q = guide.posterior(changed[:, rest], scenes.viewpoint[:, rest])
            log_p = [
                guide.model.likelihood(q.sample(), scenes.viewpoint[:, v]).log_prob(changed[:, v]) for _ in range(3)
            ]
            expected = torch.stack(log_p).double().logsumexp(0) - math.log(3)
            np.testing.assert_allclose(after.isel(view=v), expected, rtol=1e-6)
    assert not np.allclose(before, after)


def test_single_images_have_no_views_to_leave_out() -> None:
    with pytest.raises(ViewsError, match="log_likelihood: expected that of several views of a scene"):
        loo_over_views(torch.zeros(40, 3))
    guide = build_guide(preset("tiny", "mulmon")).eval()
    with pytest.raises(ViewsError, match="images: expected two views or more of every scene"):
        held_out_views(guide, torch.zeros(1, 1, 3, 16, 16), torch.zeros(1, 1, 3))
