"""Evaluation of a guide against quantities computed by hand."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Normal

from pyro_compvae import DecoderConfig, MultiViewSceneModel, SceneGuide, SceneModel, SpatialBroadcastDecoder
from pyro_compvae.analysis import (
    decompose,
    decomposition_figure,
    evaluate,
    infer,
    query_mse_by_views,
    scene_metrics,
    traversal_figure,
    views_figure,
)
from pyro_compvae.analysis.figures import decompositions
from pyro_compvae.analysis.metrics.decomposition import uncertainty
from pyro_compvae.analysis.metrics.evaluation import metric_names
from pyro_compvae.data import Scene, SceneSet

CPU = torch.device("cpu")

K, D, SIZE = 3, 2, 8


class HalvesDecoder(SpatialBroadcastDecoder):
    """Slots claim the left half, the right half, and nothing; z[0] is the slot's grey value."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        batch = z.shape[:-1]
        means = z[..., :1, None, None].expand(*batch, 3, SIZE, SIZE)
        logits = torch.full((*batch, 1, SIZE, SIZE), -50.0)
        logits[..., 0, :, :, : SIZE // 2] = 0.0
        logits[..., 1, :, :, SIZE // 2 :] = 0.0
        return means, logits


class FixedGuide(SceneGuide):
    """q = N(loc, 0.001²) whatever the image."""

    loc = torch.tensor([[0.25, 1.0], [0.75, -1.0], [0.5, 1.0]])

    def posterior(self, x: Tensor) -> Normal:
        return Normal(self.loc.expand(len(x), K, D), 0.001)


@pytest.fixture
def guide() -> SceneGuide:
    return FixedGuide(SceneModel(HalvesDecoder(D, (SIZE, SIZE), DecoderConfig(channels=(2,))), K))


@pytest.fixture
def scenes() -> SceneSet:
    """Two scenes of grey halves; the first has the labels of the slots, and the second is all background."""
    images = torch.full((2, 3, SIZE, SIZE), 64, dtype=torch.uint8)
    images[..., SIZE // 2 :] = 191
    labels = torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)
    labels[0, :, SIZE // 2 :] = 1
    return SceneSet(images, labels, torch.tensor([1, 0]))


def test_decomposition(guide: SceneGuide, scenes: SceneSet) -> None:
    decomposition = decompose(guide, infer(guide, scenes[:]))
    assert decomposition.segmentation[0].unique(dim=0).tolist() == [[0] * 4 + [1] * 4]
    torch.testing.assert_close(decomposition.masks.sum(1), torch.ones(2, SIZE, SIZE))
    torch.testing.assert_close(decomposition.reconstruction, scenes[:].image, rtol=0, atol=2e-3)


def test_metrics_of_every_scene(guide: SceneGuide, scenes: SceneSet) -> None:
    metrics = scene_metrics(guide, scenes[:])
    assert tuple(metrics) == metric_names(K)
    kl_slot = [
        sum(-math.log(0.001) + (0.001**2 + float(m) ** 2 - 1) / 2 for m in loc) for loc in FixedGuide.loc[[1, 2, 0]]
    ]
    for k in range(K):
        torch.testing.assert_close(metrics[f"kl_slot_{k + 1}"], torch.full((2,), kl_slot[k]))
    # Colours are off by at most 0.01 of a standard deviation, masks are certain.
    log_likelihood = SIZE * SIZE * 3 * (-math.log(0.1 * math.sqrt(2 * math.pi)))
    torch.testing.assert_close(metrics["elbo"], torch.full((2,), log_likelihood - sum(kl_slot)), rtol=0, atol=0.5)
    assert metrics["mse"].max() < 1e-5
    assert metrics["miou"].tolist() == [1.0, 0.5]
    assert metrics["ari"].tolist() == [1.0, 0.0]
    assert metrics["ari_fg"][0] == 1
    assert metrics["ari_fg"][1].isnan()
    assert metrics["active_slots"].tolist() == [2, 2]
    assert metrics["duplicates"].tolist() == [0, 1]
    assert metrics["duplicates_latent"].tolist() == [0, 0]
    assert metrics["mask_entropy"].max() < 1e-6


def test_metrics_of_a_sample_are_of_the_sample(guide: SceneGuide, scenes: SceneSet) -> None:
    """The metrics are those of the sample in the ELBO, as in MulMON's evaluation."""
    posterior = Normal(FixedGuide.loc.expand(2, K, -1), torch.full_like(FixedGuide.loc, 0.2).expand(2, K, -1))
    guide.posterior = lambda *arguments: posterior  # type: ignore[method-assign]
    scene = scenes[:]
    torch.manual_seed(1)
    at_mean = scene_metrics(guide, scene)
    torch.manual_seed(1)
    at_sample = scene_metrics(guide, scene, decoded="sample")
    torch.manual_seed(1)
    z = posterior.sample()
    expected = (guide.model.likelihood(z).mean - scene.image).square().mean((1, 2, 3))
    torch.testing.assert_close(at_sample["mse"].float(), expected)
    assert (at_sample["mse"] > 10 * at_mean["mse"]).all()
    assert torch.equal(at_sample["elbo"], at_mean["elbo"])
    torch.manual_seed(1)
    means = evaluate(guide, scenes, torch.device("cpu"), decoded="sample")
    assert means["mse"] == pytest.approx(float(expected.double().mean()))
    with pytest.raises(ValueError, match="decoded: expected mean or sample, got 'mode'"):
        scene_metrics(guide, scene, decoded="mode")  # type: ignore[arg-type]


def test_means_leave_out_undefined_scenes_and_do_not_depend_on_batches(guide: SceneGuide, scenes: SceneSet) -> None:
    together = evaluate(guide, scenes, torch.device("cpu"))
    alone = evaluate(guide, scenes, torch.device("cpu"), batch_size=1)
    assert together["ari_fg"] == 1
    assert together["miou"] == 0.75
    del together["elbo"], alone["elbo"]  # the ELBO of one random sample
    assert together == pytest.approx(alone)


def test_figure_has_a_row_per_scene(guide: SceneGuide, scenes: SceneSet, tmp_path: Path) -> None:
    scene = scenes[:]
    decomposition_figure(tmp_path / "figure.png", scene, decompose(guide, infer(guide, scene)), "two scenes")
    assert_png(tmp_path / "figure.png", num_rows=2, num_columns=K + 4)


def assert_png(path: Path, num_rows: int, num_columns: int) -> None:
    """Assert that a file is a PNG, of the size that this number of pictures with titles needs."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
    assert width == pytest.approx(1.1 * num_columns * 120, abs=2)
    assert height == pytest.approx((1.1 * num_rows + 0.6) * 120, abs=2)


class AddBrightness(nn.Module):
    """Projector: a view adds the first coordinate of its viewpoint to the slots' grey values, z[0]."""

    def forward(self, both: Tensor) -> Tensor:
        return torch.cat((both[..., :1] + both[..., D : D + 1], both[..., 1:D]), dim=-1)


V = 5
POSTERIOR_SCALE = 1e-6
BIAS = {1: 0.3, 2: 0.0, 3: 0.2, 4: 0.1}
"""How much too bright the guide makes the scene, by the number of views that it has seen."""
DARKER = (0, 0, 20, 40, 0)
"""How much darker a view's image is than the model makes it, in parts of 255."""


class FixedViewsGuide(SceneGuide):
    """q = N(loc + bias, 1e-6²), where the bias depends only on the number of views; it records what it was shown."""

    loc = torch.tensor([[51 / 255, 1.0], [153 / 255, -1.0], [0.5, 1.0]])

    def __init__(self, model: MultiViewSceneModel) -> None:
        super().__init__(model)
        self.shown: list[Scene] = []

    def arguments(self, scene: Scene) -> tuple[Tensor, ...]:
        assert scene.viewpoint is not None
        self.shown.append(scene)
        return scene.image, scene.viewpoint

    def posterior(self, x: Tensor, viewpoints: Tensor) -> Normal:  # type: ignore[override]
        assert x.shape[:2] == viewpoints.shape[:2]
        loc = self.loc.clone()
        loc[:, 0] += BIAS[x.shape[1]]
        return Normal(loc.expand(len(x), K, D), POSTERIOR_SCALE)


@pytest.fixture
def views_guide() -> FixedViewsGuide:
    model = MultiViewSceneModel(HalvesDecoder(D, (SIZE, SIZE), DecoderConfig(channels=(2,))), K)
    model.view_encoder, model.projector = nn.Identity(), AddBrightness()
    return FixedViewsGuide(model)


@pytest.fixture
def views() -> SceneSet:
    """Two equal scenes of grey halves, brighter from view to view; views 1, 2 and 5 have the labels of the slots."""
    greys = torch.tensor([51] * (SIZE // 2) + [153] * (SIZE // 2))
    brightness = 10 * torch.arange(V)
    images = greys + (brightness - torch.tensor(DARKER))[:, None, None, None]  # (V, 1, 1, W)
    labels = torch.zeros(2, V, SIZE, SIZE, dtype=torch.uint8)
    labels[:, [0, 1, 4], :, SIZE // 2 :] = 1
    viewpoints = torch.zeros(2, V, 3)
    viewpoints[:, :, 0] = brightness / 255
    return SceneSet(images.expand(2, V, 3, SIZE, SIZE).to(torch.uint8), labels, torch.tensor([1, 1]), viewpoints)


def test_metrics_of_observed_views_and_of_queries(views_guide: FixedViewsGuide, views: SceneSet) -> None:
    """Of five views the first two are observed."""
    scene = views[:]
    metrics = scene_metrics(views_guide, scene)
    assert tuple(metrics) == metric_names(K, multi_view=True)
    assert set(metric_names(K, multi_view=True)) > set(metric_names(K))
    assert all(value.shape == (2,) for value in metrics.values())
    (shown,) = views_guide.shown
    assert shown.viewpoint is not None
    assert scene.viewpoint is not None
    assert torch.equal(shown.image, scene.image[:, :2])
    assert torch.equal(shown.viewpoint, scene.viewpoint[:, :2])

    num_values = SIZE * SIZE * 3
    at_its_mean = -num_values * math.log(0.1 * math.sqrt(2 * math.pi))
    kl = sum(
        -math.log(POSTERIOR_SCALE) + (POSTERIOR_SCALE**2 + float(m) ** 2 - 1) / 2 for m in views_guide.loc.flatten()
    )
    errors = [(darker / 255) ** 2 for darker in DARKER]
    query_mse = sum(errors[2:]) / 3
    expected = {
        "elbo": 2 * at_its_mean - kl,
        "mse": 0.0,
        "miou": 1.0,
        "ari": 1.0,
        "ari_fg": 1.0,
        "duplicates": 0.0,
        "duplicates_latent": 0.0,
        "active_slots": 2.0,
        "mask_entropy": 0.0,
        "query_log_likelihood": at_its_mean - num_values * query_mse / (2 * 0.1**2),
        "query_mse": query_mse,
        "query_miou": (0.5 + 0.5 + 1) / 3,  # two of the views are all background, which two slots share
        "query_ari": (0 + 0 + 1) / 3,
        "query_ari_fg": 1.0,  # undefined without foreground
    }
    for name, value in expected.items():
        atol = 0.1 if name in ("elbo", "query_log_likelihood") else 1e-5
        torch.testing.assert_close(metrics[name].float(), torch.full((2,), value), rtol=1e-5, atol=atol, msg=name)
    kls = [metrics[f"kl_slot_{k}"] for k in range(1, K + 1)]
    assert (kls[0] >= kls[1]).all()
    assert (kls[1] >= kls[2]).all()
    torch.testing.assert_close(sum(kls), torch.full((2,), kl))


@pytest.mark.parametrize(("num_views", "num_observed"), [(2, 1), (3, 1), (4, 2), (5, 2)])
def test_the_first_half_of_the_views_is_observed(
    views_guide: FixedViewsGuide, views: SceneSet, num_views: int, num_observed: int
) -> None:
    metrics = scene_metrics(views_guide, views[:].view(slice(num_views)))
    (shown,) = views_guide.shown
    assert shown.image.shape[1] == num_observed
    queries = range(num_observed, num_views)
    expected = sum((BIAS[num_observed] + DARKER[v] / 255) ** 2 for v in queries) / len(queries)
    torch.testing.assert_close(metrics["query_mse"], torch.full((2,), expected), rtol=1e-3, atol=1e-6)


def test_one_view_leaves_nothing_to_query(views_guide: FixedViewsGuide, views: SceneSet) -> None:
    with pytest.raises(ValueError, match=r"scene: expected at least 2 views, .* got 1"):
        scene_metrics(views_guide, views[:].view(slice(1)))


def test_query_mse_by_views(views_guide: FixedViewsGuide, views: SceneSet) -> None:
    """The query is the view that is never shown, which differs between scenes but not between calls."""
    curve = query_mse_by_views(views_guide, views, CPU)
    shown = views_guide.shown.copy()
    assert [scene.image.shape[1] for scene in shown] == [1, 2, 3, 4]
    for scene in shown:
        assert torch.equal(scene.image, shown[-1].image[:, : scene.image.shape[1]])
    assert shown[-1].viewpoint is not None
    seen = (shown[-1].viewpoint[:, :, 0] * 25.5).round().long()  # of the views 0..4, (2, 4)
    queries = [next(v for v in range(V) if v not in row) for row in seen.tolist()]
    expected = {n: sum((bias + DARKER[v] / 255) ** 2 for v in queries) / 2 for n, bias in BIAS.items()}
    assert curve == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert query_mse_by_views(views_guide, views, CPU, batch_size=1) == pytest.approx(curve)
    many = views.part(torch.zeros(50, dtype=torch.int64))
    query_mse_by_views(views_guide, many, CPU)
    firsts = views_guide.shown[-V + 1].viewpoint
    assert firsts is not None
    assert len(firsts[:, 0, 0].unique()) == V


def test_means_of_multi_view_metrics_do_not_depend_on_batches(views_guide: FixedViewsGuide, views: SceneSet) -> None:
    together = evaluate(views_guide, views, CPU)
    alone = evaluate(views_guide, views, CPU, batch_size=1)
    assert together == pytest.approx(alone, rel=1e-4, abs=1e-6)
    assert together["query_miou"] == pytest.approx(2 / 3)


class TintedDecoder(HalvesDecoder):
    """A `HalvesDecoder` with the colours z[0], 2 z[0] and 3 z[0]."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        means, logits = super().forward(z)
        return means * torch.tensor([1.0, 2.0, 3.0])[:, None, None], logits


def test_uncertainty_is_the_mean_over_channels_of_a_standard_deviation() -> None:
    guide = FixedGuide(SceneModel(TintedDecoder(D, (SIZE, SIZE), DecoderConfig(channels=(2,))), K))
    scale = torch.tensor([0.1, 0.3, 5.0])[:, None].expand(2, K, D)
    num_samples = 800
    result = uncertainty(guide, Normal(torch.zeros(2, K, D), scale), num_samples=num_samples)
    assert result.shape == (2, SIZE, SIZE)
    error = 1 / math.sqrt(2 * num_samples)  # the relative error of a Gaussian's standard deviation
    for half, deviation in ((result[..., : SIZE // 2], 0.1), (result[..., SIZE // 2 :], 0.3)):
        expected = (1 + 2 + 3) / 3 * deviation
        assert (half / expected - 1).abs().max() < 4 * error


def test_a_certain_posterior_has_no_uncertainty(views_guide: FixedViewsGuide, views: SceneSet) -> None:
    scene = views[:].view(0)
    assert scene.viewpoint is not None
    certain = Normal(views_guide.loc.expand(2, K, D), 1e-30)
    assert uncertainty(views_guide, certain, scene.viewpoint).max() < 1e-6


Drawing = dict[str, list]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawing:
    """The pictures of the last figure, which is drawn as well."""
    drawing: Drawing = {}
    draw = decompositions._draw

    def spy(
        path: Path, pictures: list[list[NDArray]], columns: list[str], rows: list[str] | None = None, title: str = ""
    ) -> None:
        drawing.update(pictures=pictures, columns=columns, rows=list(rows or ()))
        draw(path, pictures, columns, rows or (), title)

    monkeypatch.setattr(decompositions, "_draw", spy)
    return drawing


def test_views_figure_has_a_row_per_view(
    views_guide: FixedViewsGuide, views: SceneSet, tmp_path: Path, drawn: Drawing
) -> None:
    scene = views[:1]
    views_figure(tmp_path / "views.png", views_guide, scene, 2, "one scene")
    assert_png(tmp_path / "views.png", num_rows=V, num_columns=K + 5)
    assert [shown.image.shape[1] for shown in views_guide.shown] == [2]
    assert drawn["rows"] == ["observed 1", "observed 2", "query 3", "query 4", "query 5"]
    assert drawn["columns"][:2] == ["observation", "reconstr."]
    assert drawn["columns"][2].startswith("s.d.")
    assert drawn["columns"][3:] == ["slot 1", "slot 2", "slot 3", "segment.", "truth"]
    for v, row in enumerate(drawn["pictures"]):
        observation, reconstruction, deviation = (tile.pixels for tile in row[:3])
        np.testing.assert_allclose(observation, scene.image[0, v].movedim(0, -1), atol=1e-6)
        np.testing.assert_allclose(reconstruction - observation, DARKER[v] / 255, atol=1e-3)
        assert deviation.shape == (SIZE, SIZE, 3)
    largest = max(row[2].pixels.max() for row in drawn["pictures"])
    assert largest == pytest.approx(1.0)  # white is the largest of all views


def test_views_figure_without_any_uncertainty(
    views_guide: FixedViewsGuide, views: SceneSet, tmp_path: Path, drawn: Drawing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture is black, without a division of zero by zero."""
    monkeypatch.setattr(views_guide, "posterior", lambda x, viewpoints: Normal(views_guide.loc.expand(1, K, D), 1e-30))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        views_figure(tmp_path / "views.png", views_guide, views[:1].view(slice(2)), 1)
    assert all((row[2].pixels < 0.1).all() for row in drawn["pictures"])


def test_traversal_figure_moves_one_latent_of_one_slot(
    views_guide: FixedViewsGuide, views: SceneSet, tmp_path: Path, drawn: Drawing
) -> None:
    posterior = Normal(views_guide.loc[None] / 2, 0.1)
    viewpoint = torch.tensor([[0.1, 0.0, 0.0]])
    traversal_figure(tmp_path / "traversal.png", views_guide, posterior, 1, viewpoint)
    assert_png(tmp_path / "traversal.png", num_rows=D, num_columns=5)
    assert (drawn["rows"], drawn["columns"]) == (["z 1", "z 2"], ["-2", "-1", "+0", "+1", "+2"])
    # Slot 2 is the right half, its z[0] the grey value, to which the view adds 0.1; z[1] does nothing.
    left, right = (float(posterior.loc[0, k, 0]) + 0.1 for k in (0, 1))
    for d, row in enumerate(drawn["pictures"]):
        for value, picture in zip((-2, -1, 0, 1, 2), row, strict=True):
            expected = min(max(value + 0.1, 0.0), 1.0) if d == 0 else right
            np.testing.assert_allclose(picture.pixels[:, : SIZE // 2], left, atol=1e-5)
            np.testing.assert_allclose(picture.pixels[:, SIZE // 2 :], expected, atol=1e-5)
    assert torch.equal(posterior.loc[0], views_guide.loc / 2)  # left as it was
