"""The one check of images at every door: models, guides, evidence and analysis, with words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor

from pyro_compvae import MultiViewSceneModel
from pyro_compvae.analysis import scene_metrics, to_inference_data
from pyro_compvae.analysis.posterior.draws import Draws
from pyro_compvae.analysis.posterior.predictive_checks import predictive_checks
from pyro_compvae.data.records import Scene
from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence import LogJoint, annealed_log_evidence, importance_log_evidence, refined_log_evidence
from pyro_compvae.evidence.annealing.bidirectional import simulate
from pyro_compvae.guide import SceneGuide
from pyro_compvae.guides import build_guide
from pyro_compvae.images import check_images
from pyro_compvae.runs.presets import preset

B, V, SIZE = 3, 2, 16


@pytest.fixture(scope="module", params=["monet", "iodine", "mulmon"])
def guide(request: pytest.FixtureRequest) -> SceneGuide:
    torch.manual_seed(0)
    return build_guide(preset("tiny", request.param)).eval()


def images(guide: SceneGuide) -> Tensor:
    height, width = guide.model.image_size
    views = (V,) if isinstance(guide.model, MultiViewSceneModel) else ()
    return torch.rand(B, *views, 3, height, width)


def arguments(guide: SceneGuide, x: Tensor) -> tuple[Tensor, ...]:
    return (x, torch.rand(B, V, 3)) if isinstance(guide.model, MultiViewSceneModel) else (x,)


def with_nan(x: Tensor) -> Tensor:
    x = x.clone()
    x[1, ..., 0, 0] = math.nan
    return x


FAULTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "0 to 255": (lambda x: 255 * x, r"colours in \[0, 1\], got .* to 25\d.* in scene 0; x / 255"),
    "-1 to 1": (lambda x: 2 * x - 1, r"colours in \[0, 1\], got -0\.99.* in scene 0; \(x \+ 1\) / 2"),
    "bytes": (lambda x: (255 * x).byte(), r"of float32 in \[0, 1\], got .* uint8; x / 255"),
    "doubles": (lambda x: x.double(), r"of float32 in \[0, 1\], got .* float64; x\.to\(torch\.float32\)"),
    "NaN": (with_nan, r"colours in \[0, 1\], got NaN or infinity in scene 1"),
    "infinity": (lambda x: x / 0, r"colours in \[0, 1\], got NaN or infinity in scene 0"),
    "colours last": (lambda x: x.movedim(-3, -1), r"got .* float32; x\.movedim\(-1, -3\)"),
    "one image": (lambda x: x[0], r"got .* float32; x\.unsqueeze\(0\) is a batch of one"),
    "another size": (lambda x: x[..., 1:, :], r"(images|views) .* got"),
    "no scenes": (lambda x: x[:0], r"(images|views) .* got \(0, "),
    "an array": (lambda x: x.numpy(), r"got ndarray; torch\.as_tensor"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_doors_of_model_and_guide_refuse_other_images_in_words(guide: SceneGuide, fault: str) -> None:
    change, message = FAULTS[fault]
    x, *viewpoints = arguments(guide, images(guide))
    bad = change(x)
    for door in (guide.model, guide, guide.posterior):
        with pytest.raises(ArgumentError, match=f"^x: expected .*{message}"):
            door(bad, *viewpoints)


@pytest.mark.parametrize("fault", ["0 to 255", "NaN", "bytes"])
def test_what_is_computed_of_images_refuses_the_same(guide: SceneGuide, fault: str) -> None:
    change, message = FAULTS[fault]
    x, *viewpoints = arguments(guide, images(guide))
    bad = change(x)
    pair = (guide.model, guide, bad, *viewpoints)
    z = torch.zeros(1, 1, B, guide.model.num_slots, guide.model.latent_dim)
    scene = Scene(bad, None, None, viewpoint=viewpoints[0] if viewpoints else None)
    calls: list[Callable[[], Any]] = [
        lambda: LogJoint(guide.model, bad, *viewpoints),
        lambda: importance_log_evidence(*pair, num_samples=2),
        lambda: importance_log_evidence(*pair, num_samples=2, symmetrise=False),
        lambda: annealed_log_evidence(*pair),
        lambda: refined_log_evidence(*pair),
        lambda: to_inference_data(*pair, num_draws=1),
        lambda: scene_metrics(guide, scene),
        lambda: predictive_checks(guide.model, Draws(z, "guide"), bad, *viewpoints),
        lambda: Trace_ELBO().loss(*pair),
    ]
    for call in calls:
        with pytest.raises(ArgumentError, match=f"^x: expected .*{message}"):
            call()


def test_training_refuses_them_too(guide: SceneGuide) -> None:
    x, *viewpoints = arguments(guide, 255 * images(guide))
    guide.train()
    try:
        svi = SVI(guide.model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
        with pytest.raises(ArgumentError, match="x: expected colours"):
            svi.step(x, *viewpoints)
    finally:
        guide.eval()


def test_images_that_were_simulated_from_the_model_are_accepted(guide: SceneGuide) -> None:
    """They have its noise, and so lie outside of [0, 1] too."""
    conditions = (torch.rand(200, V, 3),) if isinstance(guide.model, MultiViewSceneModel) else ()
    with torch.no_grad():
        _, (x, *_) = simulate(guide.model, *conditions, num_scenes=None if conditions else 200)
        assert x.min() < -0.05
        guide.posterior(x, *conditions)
    check_images(
        torch.zeros(2, 3, *guide.model.image_size) + 0.1 * torch.randn(2, 3, *guide.model.image_size), guide.model
    )


def test_viewpoints_that_are_no_numbers_are_refused() -> None:
    guide = build_guide(preset("tiny", "mulmon")).eval()
    x, viewpoints = arguments(guide, images(guide))
    viewpoints[2, 0, 1] = math.nan
    for call in (
        lambda: guide.posterior(x, viewpoints),
        lambda: guide.model(x, viewpoints),
        lambda: guide.model(None, viewpoints),
    ):
        with pytest.raises(ArgumentError, match="viewpoints: expected finite numbers, got NaN or infinity in scene 2"):
            call()
