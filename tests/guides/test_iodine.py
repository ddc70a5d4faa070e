"""The IODINE guide against a plain two-pass transcription, and as a Pyro guide."""

from __future__ import annotations

from typing import get_args

import pyro
import pyro.poutine as poutine
import pytest
import torch
from helpers.gradients import assert_same_loss_and_gradients, gradients
from pyro.infer import Predictive, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from pyro_compvae import DecoderConfig, SceneModel, SpatialBroadcastDecoder, lnms_log_density
from pyro_compvae.architectures import LayerNorm, RefinementNetworkConfig
from pyro_compvae.guides import IodineGuide
from pyro_compvae.guides.reference import plain_iodine_loss
from pyro_compvae.guides.refinement.evaluation import leave_one_out_logsumexp
from pyro_compvae.guides.refinement.network import RefinementNetwork
from pyro_compvae.guides.refinement.normalisation import normalise_gradient, normalise_images
from pyro_compvae.lnms import LnmsForm

B, K, D, H, W, T = 3, 3, 4, 8, 10, 3


def make_guide(
    lnms_strength: float = 0.0, recurrent: bool = True, upsample: int = 1, layer_norm: LayerNorm = "joint"
) -> IodineGuide:
    decoder_config = DecoderConfig(channels=(6, 6, 6), num_frequencies=1, upsample=upsample)
    network_config = RefinementNetworkConfig(
        channels=(5, 7),
        mlp=(9,) if recurrent else (),
        hidden=8,
        recurrent=recurrent,
        contraction=0.3,
        pooling="average" if recurrent else "flatten",
        num_frequencies=1,
        layer_norm=layer_norm,
    )
    model = SceneModel(SpatialBroadcastDecoder(D, (H, W), decoder_config), K)
    network = RefinementNetwork(D, (H, W), network_config)
    guide = IodineGuide(model, network, T, 0.7, lnms_strength=lnms_strength)
    with torch.no_grad():
        guide.initial_mean.normal_()
    return guide


def noise_of(seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """The draws of the guide: T in the refinement, and then Pyro's own."""
    torch.manual_seed(seed)
    draws = [torch.randn(B, K, D, dtype=dtype) for _ in range(T)]
    zeros = torch.zeros(B, K, D, dtype=dtype)
    return [*draws, torch.normal(zeros, torch.ones_like(zeros))]


@pytest.mark.filterwarnings("ignore:.* was not registered in the param store")
@pytest.mark.parametrize(("recurrent", "upsample"), [(True, 1), (False, 2)])
@pytest.mark.parametrize("lnms_strength", [0.0, 0.8])
@pytest.mark.parametrize(("kl_weight", "frozen_model"), [(1.0, False), (0.3, False), (1.0, True)])
def test_loss_and_all_gradients_equal_the_plain_two_pass_form(
    recurrent: bool, upsample: int, lnms_strength: float, kl_weight: float, frozen_model: bool
) -> None:
    guide = make_guide(lnms_strength, recurrent, upsample).double().train()
    guide.model.requires_grad_(not frozen_model)
    guide.kl_weight = kl_weight
    x = torch.rand(B, 3, H, W, dtype=torch.float64)
    plain = plain_iodine_loss(guide, x, noise_of(7))
    torch.manual_seed(7)
    loss = TraceMeanField_ELBO()(guide.model, guide)(x)

    assert_same_loss_and_gradients(loss, plain, guide)


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("layer_norm", get_args(LayerNorm))
def test_every_layer_norm_and_attached_inputs_equal_the_plain_form(layer_norm: LayerNorm, attached: bool) -> None:
    guide = make_guide(0.8, layer_norm=layer_norm).double().train()
    guide.attached_inputs = attached
    x = torch.rand(B, 3, H, W, dtype=torch.float64)
    plain = plain_iodine_loss(guide, x, noise_of(7))
    torch.manual_seed(7)
    assert_same_loss_and_gradients(TraceMeanField_ELBO()(guide.model, guide)(x), plain, guide)


def test_attached_inputs_change_the_gradient_and_nothing_else() -> None:
    guide = make_guide(0.8).double().train()
    guide.num_iterations = 1
    x = torch.rand(B, 3, H, W, dtype=torch.float64)
    elbo, found = TraceMeanField_ELBO()(guide.model, guide), []
    for attached in (False, True):
        guide.attached_inputs = attached
        torch.manual_seed(7)
        loss = elbo(x)
        found.append((loss.detach(), gradients(loss, guide)))
    (loss, detached), (same_loss, published) = found
    torch.testing.assert_close(loss, same_loss, rtol=1e-12, atol=0)
    # The one update of λ passes its gradient back to its inputs, and so to the decoder and to λ_0; its own is the same.
    for name, gradient in detached.items():
        same = torch.allclose(gradient, published[name], rtol=1e-9, atol=0)
        assert same == name.startswith("network."), name


def test_layer_norms_by_hand() -> None:
    """Four numbers of mean 1 and squared deviations 9, 1, 1, 9: variance 5, or 20/3 by Bessel's formula."""
    values = torch.tensor([-2.0, 0.0, 2.0, 4.0], dtype=torch.float64)
    centred = torch.tensor([-3.0, -1.0, 1.0, 3.0], dtype=torch.float64)
    mean, raw_scale = values.reshape(1, 2, 2).unbind(1)
    expected = {
        "joint": centred / (5 + 1e-5) ** 0.5,
        "mulmon": centred / ((20 / 3) ** 0.5 + 1e-5),
        "split": torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64) / (1 + 1e-5) ** 0.5,
    }
    image = {**expected, "mulmon": centred / (5**0.5 + 1e-5), "split": expected["joint"]}
    for kind in get_args(LayerNorm):
        torch.testing.assert_close(normalise_gradient(mean, raw_scale, kind).flatten(), expected[kind])
        torch.testing.assert_close(normalise_images(values.reshape(1, 1, 2, 2), kind).flatten(), image[kind])
    # For a gradient of 1e-4 Sonnet's epsilon inside the root removes all but 3 % of it, and MulMON's removes a tenth.
    small = 1e-4 * torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64).reshape(1, 1, 2, 2)
    assert normalise_images(small, "joint").max() == pytest.approx(0.0316, rel=1e-2)
    assert normalise_images(small, "mulmon").max() == pytest.approx(1 / 1.1, rel=1e-6)


def test_channels_last_and_float32_give_the_same_loss() -> None:
    guide = make_guide(0.8).train()
    x = torch.rand(B, 3, H, W)
    plain = plain_iodine_loss(guide, x, noise_of(7, torch.float32))
    guide.to(memory_format=torch.channels_last)
    torch.manual_seed(7)
    loss = TraceMeanField_ELBO()(guide.model, guide)(x)
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=0)


@pytest.mark.parametrize("form", get_args(LnmsForm))
def test_lnms_raises_the_objective_by_its_weighted_strength(form: LnmsForm) -> None:
    """The sign is right: the train-mode loss falls by strength · L_NMS, summed over iterations with weights t/T."""
    guide = make_guide(0.0).double().train()
    guide.lnms_form = form
    x = torch.rand(B, 3, H, W, dtype=torch.float64)
    elbo = TraceMeanField_ELBO()(guide.model, guide)
    losses, terms = [], []
    for strength in (0.0, 2.0):
        guide.lnms_strength = strength
        torch.manual_seed(3)
        losses.append(elbo(x))
        torch.manual_seed(3)
        terms.append(poutine.trace(guide).get_trace(x))
    last = -terms[1].nodes["lnms"]["fn"].log_factor
    z, q = terms[1].nodes["z"]["value"], terms[1].nodes["z"]["fn"].base_dist
    presence = 1 - (-kl_divergence(q, Normal(0.0, 1.0)).sum(-1)).exp() if form == "presence" else None
    torch.testing.assert_close(last, 2.0 * lnms_log_density(z, form=form, presence=presence))
    others = [
        terms[0].nodes[f"iteration_{t}"]["fn"].log_factor - terms[1].nodes[f"iteration_{t}"]["fn"].log_factor
        for t in range(1, T)
    ]
    torch.testing.assert_close(losses[0] - losses[1], (last + sum(others)).sum())


def test_lnms_does_not_steer_the_refinement() -> None:
    guide = make_guide(0.0).train()
    x = torch.rand(B, 3, H, W)
    posteriors = []
    for strength in (0.0, 100.0):
        guide.lnms_strength = strength
        torch.manual_seed(1)
        posteriors.append(guide.posterior(x).loc)
    assert torch.equal(*posteriors)


def test_eval_mode_is_plain_pyro() -> None:
    guide = make_guide(0.8).eval()
    guide.kl_weight = 0.5
    x = torch.rand(B, 3, H, W)
    trace = poutine.trace(guide).get_trace(x)
    assert set(trace.stochastic_nodes) == {"scenes", "z"}
    assert trace.nodes["z"]["value"].shape == (B, K, D)

    torch.manual_seed(5)
    loss = TraceMeanField_ELBO()(guide.model, guide)(x)
    torch.manual_seed(5)
    q = guide.posterior(x)
    z = torch.normal(torch.zeros(B, K, D), torch.ones(B, K, D)) * q.scale + q.loc
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(loss, kl - guide.model.likelihood(z).log_prob(x).sum())


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO, RenyiELBO])
def test_vectorised_particles_work_in_eval_mode(elbo: type) -> None:
    guide = make_guide().eval()
    x = torch.rand(B, 3, H, W)
    loss = elbo(num_particles=5, vectorize_particles=True).loss(guide.model, guide, x)
    assert torch.isfinite(torch.as_tensor(loss))


def test_predictive_and_no_grad() -> None:
    guide = make_guide().eval()
    x = torch.rand(B, 3, H, W)
    draws = Predictive(guide.model, guide=guide, num_samples=4, parallel=False)(x)
    assert draws["z"].shape == (4, B, K, D)
    with torch.no_grad():
        assert not guide.posterior(x).loc.requires_grad
    with (
        torch.inference_mode(),
        pytest.raises(RuntimeError, match=r"expected torch.no_grad\(\), got torch.inference_mode"),
    ):
        guide.posterior(x)


def test_training_under_svi_with_the_parameter_store_reaches_all_parameters() -> None:
    guide = make_guide(0.5).train()
    x = torch.rand(B, 3, H, W)
    before = {name: p.detach().clone() for name, p in guide.named_parameters()}
    svi = pyro.infer.SVI(guide.model, guide, pyro.optim.Adam({"lr": 1e-3}), TraceMeanField_ELBO())
    for _ in range(2):
        svi.step(x)
    assert not [name for name, p in guide.named_parameters() if torch.equal(p, before[name])]


def test_scenes_of_unequal_weight_are_refused_in_train_mode() -> None:
    guide = make_guide().train()
    x = torch.rand(B, 3, H, W)
    trace = poutine.trace(guide).get_trace(x)
    factor = trace.nodes["iteration_1"]["fn"].log_factor
    with pytest.raises(RuntimeError, match="expected scenes of equal weight"):
        (factor * torch.tensor([1.0, 2.0, 3.0])).sum().backward()


@pytest.mark.parametrize(
    "x", [torch.rand(B, 3, H, W + 1), torch.rand(3, H, W), torch.zeros(B, 3, H, W, dtype=torch.uint8)]
)
def test_wrong_images_are_refused(x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"x: expected images \(B, 3, 8, 10\) of float32 .* got \("):
        make_guide().posterior(x)


def test_leave_one_out_is_exact_and_stable() -> None:
    values = torch.randn(2, 4, 3, 3, dtype=torch.float64) * 5
    result = leave_one_out_logsumexp(values)
    for k in range(4):
        others = [j for j in range(4) if j != k]
        torch.testing.assert_close(result[:, k], torch.logsumexp(values[:, others], dim=1))
    # One slot explains the pixel alone by 1,000 nats: subtraction would leave nothing of the others.
    values = torch.tensor([0.0, -1000.0, -1001.0]).reshape(1, 3, 1, 1)
    expected = torch.tensor([-1000 + torch.tensor(-1.0).exp().log1p(), 0.0, 0.0]).reshape(1, 3, 1, 1)
    torch.testing.assert_close(leave_one_out_logsumexp(values), expected)
