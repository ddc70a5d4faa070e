"""MulMON on scenes of which every view shows a part: more views give narrower posteriors and better predictions."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pyro_compvae import DecoderConfig, MultiViewSceneModel, SpatialBroadcastDecoder
from pyro_compvae.analysis import decompose, infer, mean_squared_error
from pyro_compvae.architectures import RefinementNetworkConfig
from pyro_compvae.data import SceneSet
from pyro_compvae.guides import MulmonGuide
from pyro_compvae.guides.refinement.network import RefinementNetwork
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.presets import preset
from pyro_compvae.training.trainer import Trainer

V, K, D, H, W = 4, 3, 4, 4, 8
LIGHTS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 1.0))
DARK, BRIGHT = 0.1, 0.9


def lit_scenes(num_scenes: int, seed: int) -> SceneSet:
    """Two squares of independent colours on black, seen under red, green, blue and finally white light.

    A viewpoint is a light. A view under one colour says nothing about the other two colours; all three together
    determine the last view, which is never observed.
    """
    generator = torch.Generator().manual_seed(seed)
    colours = DARK + (BRIGHT - DARK) * torch.rand(num_scenes, 1, 2, 3, generator=generator)
    seen = colours * torch.tensor(LIGHTS)[:, None]  # (N, V, 2, 3)
    images = torch.zeros(num_scenes, V, 3, H, W)
    labels = torch.zeros(num_scenes, V, H, W, dtype=torch.uint8)
    for square, columns in enumerate((slice(0, 3), slice(5, 8))):
        images[..., columns] = seen[:, :, square, :, None, None]
        labels[..., columns] = square + 1
    viewpoints = torch.tensor(LIGHTS).expand(num_scenes, V, 3)
    return SceneSet((255 * images).round().to(torch.uint8), labels, torch.full((num_scenes,), 2), viewpoints)


def train(run_dir: Path, steps: int) -> MulmonGuide:
    config = preset("tiny", "mulmon").replace(
        {
            "lnms": False,
            "num_slots": K,
            "training.steps": steps,
            "training.batch_size": 32,
            "training.learning_rate": 4e-3,
            "training.beta1": 0.95,
            "training.warmup_steps": 50,
            "training.kl_warmup_steps": 50,
            "training.decay_steps": 2 * steps,
            "training.log_every": 100,
            "training.evaluate_every": steps,
            "training.checkpoint_every": steps,
        }
    )
    size = (H, W)
    decoder = SpatialBroadcastDecoder(D, size, DecoderConfig(channels=(16, 16), num_frequencies=1))
    model = MultiViewSceneModel(decoder, K, view_hidden=16, projector_hidden=64)
    for layer in model.projector:  # keep unit scale, so that slots find places sooner
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    network_config = RefinementNetworkConfig(
        (16, 16), mlp=(), hidden=64, recurrent=False, contraction=0.3, pooling="flatten", num_frequencies=1
    )
    guide = MulmonGuide(model, RefinementNetwork(D, size, network_config), num_iterations=2, max_observed=3)
    trainer = Trainer(guide, config, lit_scenes(2_000, seed=0), RunFolder(run_dir))
    assert trainer.run()
    return guide.eval()


def assert_falls(values: list[Tensor]) -> None:
    """Assert that values fall with the number of views, by five standard errors of paired differences of scenes."""
    for before, after in pairwise(values):
        fall = before - after
        assert fall.mean() > 5 * fall.std() / math.sqrt(len(fall))


@pytest.mark.slow
def test_more_views_mean_narrower_posteriors_and_better_predictions(tmp_path: Path) -> None:
    guide = train(tmp_path, steps=600)
    unseen = lit_scenes(256, seed=1)[:]
    query = unseen.view(-1)
    assert query.viewpoint is not None
    scales, errors = [], []
    for num_observed in range(1, V):
        posterior = infer(guide, unseen.view(slice(num_observed)))
        scales.append(posterior.scale.mean((1, 2)))
        errors.append(mean_squared_error(decompose(guide, posterior, query.viewpoint).reconstruction, query.image))
    assert scales[0].mean() < 1  # the prior's
    assert_falls(scales)
    assert_falls(errors)
