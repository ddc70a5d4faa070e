"""Evaluation of a guide against quantities computed by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from analysis import decompose, decomposition_figure, evaluate, infer, scene_metrics
from analysis.evaluation import metric_names
from pyro_compvae import SceneGuide, SceneModel, SpatialBroadcastDecoder
from pyro_compvae.data import SceneSet

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
    return FixedGuide(SceneModel(HalvesDecoder(D, (SIZE, SIZE), channels=(2,)), K))


@pytest.fixture
def scenes() -> SceneSet:
    """Two scenes of grey halves; the first is labelled as the slots have it, the second is all background."""
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


def test_means_leave_out_undefined_scenes_and_do_not_depend_on_batches(guide: SceneGuide, scenes: SceneSet) -> None:
    together = evaluate(guide, scenes, torch.device("cpu"))
    alone = evaluate(guide, scenes, torch.device("cpu"), batch_size=1)
    assert together["ari_fg"] == 1
    assert together["miou"] == 0.75
    del together["elbo"], alone["elbo"]  # of one random sample
    assert together == pytest.approx(alone)


def test_figure_has_a_row_per_scene(guide: SceneGuide, scenes: SceneSet, tmp_path: Path) -> None:
    scene = scenes[:]
    decomposition_figure(tmp_path / "figure.png", scene, decompose(guide, infer(guide, scene)), "two scenes")
    content = (tmp_path / "figure.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
    assert width == pytest.approx(1.1 * (K + 4) * 120, abs=2)
    assert height == pytest.approx((1.1 * 2 + 0.6) * 120, abs=2)
