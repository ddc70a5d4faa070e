"""The worked example of the documentation: a guide that this package does not know."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.scripts import EXAMPLES, load_script
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_compvae import lnms_log_density
from pyro_compvae.analysis import evaluate
from pyro_compvae.data import make_sprites
from pyro_compvae.data.sprites import SpriteConfig
from pyro_compvae.evidence import importance_log_evidence
from pyro_compvae.guide import SceneGuide

B, K, D, SIZE, WIDTH = 3, 4, 4, 18, 8
example = load_script("slot_attention_guide", EXAMPLES)


def tiny_guide() -> SceneGuide:
    return example.make_guide(num_slots=K, latent_dim=D, image_size=SIZE, width=WIDTH)


def images(num_scenes: int = B) -> Tensor:
    return make_sprites("train", num_scenes, config=SpriteConfig(image_size=SIZE))[:].image


def sample_sites(trace: poutine.Trace) -> list[str]:
    return [name for name, site in trace.nodes.items() if site["type"] == "sample" and name != "scenes"]


def test_a_few_steps_raise_the_elbo() -> None:
    scenes = make_sprites("train", 64, config=SpriteConfig(image_size=SIZE))
    guide, device = tiny_guide(), torch.device("cpu")
    before = evaluate(guide.eval(), scenes, device)
    example.train(guide, scenes, steps=30, batch_size=8, learning_rate=2e-3)
    after = evaluate(guide.eval(), scenes, device)
    assert after["elbo"] > before["elbo"] + 100
    assert after["mse"] < before["mse"]


def test_posterior_is_factorised_over_slots_and_permutes_with_them() -> None:
    guide, x = tiny_guide().double(), images().double()
    slots = torch.randn(B, K, WIDTH, dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    q, permuted = guide.refine(x, slots), guide.refine(x, slots[:, order])
    assert q.batch_shape == (B, K, D)
    assert (q.loc[:, 0] - q.loc[:, 1]).abs().max() > 1e-3, "the premise: slots differ"
    torch.testing.assert_close(permuted.loc, q.loc[:, order])
    torch.testing.assert_close(permuted.scale, q.scale[:, order])
    guide.model.num_slots = 7  # no weight depends on K
    assert guide.posterior(x).batch_shape == (B, 7, D)


def test_slots_compete() -> None:
    """The first slot prefers the second place, loses it to the second slot, and gets the first place."""
    attention = example.SlotAttention(2, num_iterations=1)
    logits = torch.tensor([[90.0, 100.0], [0.0, 200.0]])  # of slots and places
    chosen = {attention.key: torch.eye(2), attention.value: torch.eye(2), attention.query: 2**0.5 * logits}
    for layer, output in chosen.items():
        layer.register_forward_hook(lambda module, inputs, _, output=output: output.expand(1, 2, 2))
    seen: list[Tensor] = []
    attention.gru.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    attention(torch.randn(1, 2, 2), torch.randn(1, 2, 2))
    torch.testing.assert_close(seen[0], torch.eye(2))


def test_eval_mode_is_plain_pyro() -> None:
    guide, x = tiny_guide().eval(), images()
    guide.kl_weight = 0.5
    assert sample_sites(poutine.trace(guide).get_trace(x)) == ["z"]
    assert math.isfinite(Trace_ELBO(num_particles=3, vectorize_particles=True).loss(guide.model, guide, x))


def test_an_autocast_around_has_no_effect() -> None:
    guide, x, found = tiny_guide().train(), images(), []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append((Trace_ELBO()(guide.model, guide)(x), guide.posterior(x).loc))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.filterwarnings("ignore::pyro_compvae.programs.TrainModeWarning")
def test_train_mode_adds_lnms_with_the_right_sign() -> None:
    guide, x = tiny_guide().train(), images()
    trace = poutine.trace(guide).get_trace(x)
    assert sample_sites(trace) == ["z", "lnms"]
    trace.compute_log_prob()
    lnms = guide.lnms_strength * lnms_log_density(trace.nodes["z"]["value"])
    assert lnms.max() < 0, "the premise: untrained slots are alike"
    torch.testing.assert_close(trace.nodes["lnms"]["log_prob"], -lnms)  # a guide's factor lowers the ELBO


@pytest.mark.parametrize("symmetrise", [True, False])
def test_its_evidence_can_be_estimated(symmetrise: bool) -> None:
    guide, x = tiny_guide().eval(), images()
    estimate = importance_log_evidence(guide.model, guide, x, num_samples=40, symmetrise=symmetrise)
    assert estimate.log_evidence.shape == (B,)
    assert estimate.log_weights.shape == (40, B)
    assert (estimate.log_evidence >= estimate.elbo).all()
