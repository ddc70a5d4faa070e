"""ArviZ data of posterior draws, with whichever ArviZ is installed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import arviz
import matplotlib as mpl
import numpy as np
import pytest
import torch
import xarray
from matplotlib import pyplot

from pyro_compvae.analysis import draws_to_inference_data, load_run, to_inference_data
from pyro_compvae.analysis.posterior.data_set import (
    InferenceDataError,
    bundle,
    groups_of,
    load_groups,
    save_inference_data,
)
from pyro_compvae.analysis.posterior.draws import Draws
from pyro_compvae.analysis.posterior.figure import khats_of
from pyro_compvae.analysis.posterior.groups import IMAGE, of_scenes
from pyro_compvae.data import Scene, load_scenes
from pyro_compvae.evidence.pareto import ARVIZ
from pyro_compvae.guide import SceneGuide
from pyro_compvae.guides import build_guide
from pyro_compvae.runs.presets import preset

GROUPS = {"posterior", "sample_stats", "log_likelihood", "posterior_predictive", "prior", "prior_predictive"}
GROUPS |= {"observed_data", "constant_data"}
C, N, B = 2, 30, 2


@pytest.fixture(autouse=True)
def _no_windows() -> Any:
    backend = mpl.get_backend()
    mpl.use("agg")
    yield
    pyplot.close("all")
    mpl.use(backend)


def guide_and_scenes(name: Any) -> tuple[SceneGuide, Scene]:
    config = preset("tiny", name)
    guide = build_guide(config).eval()
    return guide, load_scenes(config.data, "test", multi_view=name == "mulmon")[:B]


@pytest.fixture(params=["iodine", "mulmon"])
def pair(request: pytest.FixtureRequest) -> tuple[SceneGuide, Scene]:
    return guide_and_scenes(request.param)


def groups_for(pair: tuple[SceneGuide, Scene], **options: Any) -> dict[str, xarray.Dataset]:
    guide, scenes = pair
    options = {"num_predictive": 3, "truth": scenes} | options
    pair_and_scenes = (guide.model, guide, *guide.arguments(scenes))
    if "draws" in options:
        return groups_of(draws_to_inference_data(options.pop("draws"), *pair_and_scenes, **options))
    return groups_of(to_inference_data(*pair_and_scenes, **{"num_draws": N, "num_chains": C} | options))


def test_groups_dimensions_and_coordinates(pair: tuple[SceneGuide, Scene]) -> None:
    guide, scenes = pair
    groups = groups_for(pair)
    views = ("view",) if scenes.image.dim() == 5 else ()
    assert set(groups) == GROUPS
    K, D = guide.model.num_slots, guide.model.latent_dim
    assert groups["posterior"]["z"].dims == ("chain", "draw", "scene", "slot", "latent")
    assert groups["posterior"]["z"].shape == (C, N, B, K, D)
    assert groups["log_likelihood"]["image"].dims == ("chain", "draw", "scene", *views)
    for name, size in (("posterior_predictive", C * 3), ("prior_predictive", 3)):
        image = groups[name]["image"]
        assert image.dims == ("chain", "draw", "scene", *views, *IMAGE)
        assert image.sizes["chain"] * image.sizes["draw"] == size
    np.testing.assert_array_equal(groups["observed_data"]["image"], scenes.image)
    np.testing.assert_array_equal(groups["constant_data"]["labels"], scenes.labels)
    assert list(groups["observed_data"]["channel"].values) == ["red", "green", "blue"]
    assert ("viewpoint" in groups["constant_data"]) == bool(views)
    for data in groups.values():
        assert data.attrs["source"] == "guide"
        assert "Hungarian" in data.attrs["slot_alignment"]


def test_numbers_are_those_of_model_and_guide(pair: tuple[SceneGuide, Scene]) -> None:
    guide, scenes = pair
    groups = groups_for(pair)
    statistics = groups["sample_stats"]
    z = torch.from_numpy(groups["posterior"]["z"].values)[0, 0]
    viewpoints = () if scenes.viewpoint is None or scenes.image.dim() == 4 else (scenes.viewpoint,)
    each = z.unsqueeze(1) if viewpoints else z
    with torch.no_grad():
        expected = guide.model.likelihood(each, *viewpoints).log_prob(scenes.image)
        log_prior = guide.model.prior().log_prob(z)
    np.testing.assert_allclose(groups["log_likelihood"]["image"][0, 0], expected, rtol=1e-4)
    np.testing.assert_allclose(statistics["log_prior"][0, 0], log_prior, rtol=1e-4)
    total = groups["log_likelihood"]["image"].sum("view") if viewpoints else groups["log_likelihood"]["image"]
    np.testing.assert_allclose(statistics["lp"], total + statistics["log_prior"])
    np.testing.assert_allclose(statistics["log_weight"], statistics["lp"] - statistics["log_guide"], rtol=1e-6)
    weights = np.exp(statistics["log_weight"] - statistics["log_weight"].max(("chain", "draw")))
    ess = weights.sum(("chain", "draw")) ** 2 / (weights**2).sum(("chain", "draw"))
    assert statistics["khat"].dims == statistics["ess"].dims == ("chain", "draw", "scene")
    np.testing.assert_allclose(of_scenes(statistics["ess"]), ess, rtol=1e-6)
    assert float(statistics["ess"].std(("chain", "draw")).max()) == 0


def test_draws_in_other_orders_of_the_slots_are_aligned_and_marked() -> None:
    guide, scenes = guide_and_scenes("iodine")
    K, D = guide.model.num_slots, guide.model.latent_dim
    centres = 3.0 * torch.arange(K)[:, None].expand(K, D)
    z = centres + 0.1 * torch.randn(C, N, B, K, D)
    z[1] = z[1, :, :, torch.randperm(K)]
    groups = groups_for((guide, scenes), draws=Draws(z.double(), "nuts"))
    aligned = groups["posterior"]["z"]
    assert float(arviz.rhat(groups["posterior"])["z"].max()) < 1.2
    assert float(aligned.std(("chain", "draw")).max()) < 0.2
    assert groups["posterior"].attrs["source"] == "nuts"
    assert "log_weight" not in groups["sample_stats"]
    order = groups["sample_stats"]["relabelled"]
    assert order.dtype == bool
    # All draws of a chain were in one order.
    assert bool((order == order[:, :1]).all())


def test_files_open_with_arviz_and_with_xarray_alone(pair: tuple[SceneGuide, Scene], tmp_path: Path) -> None:
    groups = groups_for(pair)
    path = tmp_path / "posterior.nc"
    save_inference_data(path, bundle(groups))
    data = arviz.from_netcdf(path)
    for name, group in groups.items():
        xarray.testing.assert_identical(xarray.load_dataset(path, group=name), group)
        np.testing.assert_array_equal(data[name][next(iter(group.data_vars))], group[next(iter(group.data_vars))])
    assert set(load_groups(path, "posterior", "prior")) == {"posterior", "prior"}
    if ARVIZ >= 1:
        assert isinstance(data, xarray.DataTree)


def test_arviz_summarises_plots_and_leaves_out(pair: tuple[SceneGuide, Scene], tmp_path: Path) -> None:
    save_inference_data(tmp_path / "posterior.nc", bundle(groups_for(pair)))
    data = arviz.from_netcdf(tmp_path / "posterior.nc")
    guide, scenes = pair
    K, D = guide.model.num_slots, guide.model.latent_dim
    table = arviz.summary(data, var_names=["z"])
    assert len(table) == B * K * D
    assert "r_hat" in table
    one = {"scene": [0], "slot": [1], "latent": [0, 1]}
    arviz.plot_trace(data, var_names=["z"], coords=one)
    if ARVIZ < 1:  # where plot_dist takes an array
        arviz.plot_dist(data["posterior"]["z"].sel(scene=0, slot=1, latent=0).values)
    else:
        arviz.plot_dist(data, var_names=["z"], coords=one)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an untrained guide's draws reweigh badly, and ArviZ says so
        loo = arviz.loo(data, var_name="image", pointwise=True)
    assert loo.pareto_k.size == scenes.image[..., 0, 0, 0].numel()
    arviz.plot_khat(loo)


@pytest.mark.skipif(ARVIZ >= 1, reason="ArviZ 1.x has no concat")
def test_chains_of_two_calls_are_put_together(pair: tuple[SceneGuide, Scene], tmp_path: Path) -> None:
    save_inference_data(tmp_path / "posterior.nc", bundle(groups_for(pair)))
    one, other = arviz.from_netcdf(tmp_path / "posterior.nc"), bundle(groups_for(pair))
    for dim in ("chain", "draw"):
        both = arviz.concat(one, other, dim=dim)
        for group in ("posterior", "sample_stats", "log_likelihood"):
            assert both[group].sizes[dim] == one[group].sizes[dim] + other[group].sizes[dim]
    assert len(arviz.summary(one, group="sample_stats", var_names=["lp", "khat"])) == 2 * B


def test_files_with_numbers_of_scenes_that_are_not_repeated_are_read() -> None:
    """Such files were written before."""
    statistics = groups_for(guide_and_scenes("iodine"))["sample_stats"]
    before = statistics.assign({name: of_scenes(statistics[name]) for name in ("khat", "ess")})
    assert before["khat"].dims == ("scene",)
    np.testing.assert_array_equal(khats_of(before).values, khats_of(statistics).values)
    assert khats_of(statistics).values.shape == (B,)


def test_the_public_function_gives_what_arviz_knows() -> None:
    guide, scenes = guide_and_scenes("monet")
    data = to_inference_data(guide.model, guide, scenes.image, num_draws=5, num_chains=2)
    kind = arviz.InferenceData if ARVIZ < 1 else xarray.DataTree
    assert isinstance(data, kind)
    assert data["posterior"].attrs["source"] == "guide"
    assert "constant_data" not in groups_of(data)
    assert arviz.summary(data, coords={"scene": [0]}).shape[0] == guide.model.num_slots * guide.model.latent_dim


def test_bad_input_is_told_in_words(tmp_path: Path) -> None:
    guide, scenes = guide_and_scenes("iodine")
    with pytest.raises(ValueError, match="num_draws: expected at least 1, got 0"):
        groups_for((guide, scenes), num_draws=0)
    with pytest.raises(ValueError, match=r"draws: expected those of \(2, .*\) scenes, slots and latents, got"):
        groups_for((guide, scenes), draws=Draws(torch.zeros(1, 2, 5, 3, 4), "nuts"))
    other = scenes._replace(image=scenes.image[:1])
    with pytest.raises(ValueError, match="truth: expected that of images"):
        groups_for((guide, scenes), truth=other)
    with pytest.raises(ValueError, match="expected eval mode"):
        groups_for((guide.train(), scenes))
    with pytest.raises(InferenceDataError, match=r"expected draws, found no such file; `compvae diagnose`"):
        load_groups(tmp_path / "posterior_guide.nc", "posterior")
    groups = groups_for((guide.eval(), scenes))
    save_inference_data(tmp_path / "some.nc", bundle({"posterior": groups["posterior"]}))
    with pytest.raises(InferenceDataError, match="expected the group 'log_likelihood', found none"):
        load_groups(tmp_path / "some.nc", "posterior", "log_likelihood")


def test_bundles_hold_the_groups() -> None:
    groups = groups_for(guide_and_scenes("iodine"))
    data = bundle(groups)
    for name in groups:
        assert data[name].sizes == groups[name].sizes


def test_a_loaded_run_gives_data_right_away() -> None:
    run = load_run("results/iodine-sprites-lnms-seed0")
    x = load_scenes(run.config.data, "test")[:1].image
    data = to_inference_data(run.model, run.guide, x, num_draws=20)
    assert of_scenes(data["sample_stats"]["khat"]).item() > 0.7, "the guide alone is no posterior"
