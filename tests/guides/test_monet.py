"""The MONet guide against a plain transcription of its objective, and as a Pyro guide."""

from __future__ import annotations

import math

import pyro.poutine as poutine
import pytest
import torch
import torch.nn.functional as F
from helpers.gradients import assert_same_loss_and_gradients
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

from pyro_compvae import DecoderConfig, SceneModel, SpatialBroadcastDecoder
from pyro_compvae.architectures import AttentionNetworkConfig, ComponentEncoderConfig
from pyro_compvae.guides import MonetGuide
from pyro_compvae.guides.monet_networks import AttentionNetwork, ComponentEncoder, _block
from pyro_compvae.guides.reference import plain_monet_loss

B, K, D, SIZE = 3, 4, 4, 16


def make_guide(lnms_strength: float = 0.0, num_slots: int = K) -> MonetGuide:
    size = (SIZE, SIZE)
    decoder = SpatialBroadcastDecoder(D, size, DecoderConfig(channels=(6, 7), padded=False, activation="relu"))
    return MonetGuide(
        SceneModel(decoder, num_slots),
        AttentionNetwork(size, AttentionNetworkConfig(channels=(4, 5, 5), bottleneck=6)),
        ComponentEncoder(D, size, ComponentEncoderConfig(encoder_channels=(5, 6), encoder_hidden=7)),
        mask_strength=0.4,
        lnms_strength=lnms_strength,
    )


def with_mild_masks(guide: MonetGuide) -> MonetGuide:
    """The transcription below takes masks, not their logs, so it is accurate only if none is close to 0."""
    with torch.no_grad():
        guide.attention.logits.weight /= AttentionNetworkConfig().gain
    return guide


def published_loss(guide: MonetGuide, x: Tensor, noise: Tensor) -> Tensor:
    """The published loss, −log Σ_k a_k N(x; μ_k, σ²) + β KL(q ‖ p) + γ KL(a ‖ m) − s L_NMS(z), summed over scenes."""
    model, sigma = guide.model, guide.model.scale
    scope = torch.ones_like(x[:, :1])
    attention = []
    for _ in range(model.num_slots - 1):
        log_alpha, _ = guide.attention(x, scope.log())
        attention.append(scope * log_alpha.exp())
        scope = scope * (1 - log_alpha.exp())
    masks = torch.stack([*attention, scope], dim=1)  # (B, K, 1, H, W)
    encoded = torch.stack([guide.encoder(torch.cat((x, mask.log()), 1)) for mask in masks.unbind(1)], dim=1)
    mean, scale = encoded[..., :D], F.softplus(encoded[..., D:])
    z = mean + scale * noise
    means, logits = model.decoder(z)
    density = torch.exp(-0.5 * (((x[:, None] - means) / sigma) ** 2).sum(2)) / (sigma * math.sqrt(2 * math.pi)) ** 3
    likelihood = torch.log((masks[:, :, 0] * density).sum(1)).sum()
    kl = 0.5 * (mean**2 + scale**2 - 1 - 2 * scale.log()).sum()
    decoded = torch.softmax(logits, dim=1)
    mask_kl = (masks * (masks.log() - decoded.log())).sum()
    cosine = F.cosine_similarity(z[:, :, None], z[:, None], dim=-1)[:, ~torch.eye(model.num_slots, dtype=torch.bool)]
    lnms = (-0.5 * (cosine / 0.1) ** 2 - math.log(0.1 * math.sqrt(2 * math.pi))).sum()
    return -(likelihood - guide.kl_weight * kl - guide.mask_strength * mask_kl + guide.lnms_strength * lnms)


@pytest.mark.parametrize("lnms_strength", [0.0, 0.3])
@pytest.mark.parametrize("kl_weight", [0.5, 1.0])
def test_loss_and_gradients_equal_the_published_objective(lnms_strength: float, kl_weight: float) -> None:
    guide = with_mild_masks(make_guide(lnms_strength)).double().train()
    guide.kl_weight = kl_weight
    x = torch.rand(B, 3, SIZE, SIZE, dtype=torch.float64)
    zeros = torch.zeros(B, K, D, dtype=torch.float64)
    torch.manual_seed(7)
    noise = torch.normal(zeros, torch.ones_like(zeros))
    torch.manual_seed(7)
    loss = TraceMeanField_ELBO()(guide.model, guide)(x)
    assert_same_loss_and_gradients(loss, published_loss(guide, x, noise), guide)


def test_plain_loss_equals_the_published_objective() -> None:
    guide = with_mild_masks(make_guide(0.3)).double().train()
    guide.kl_weight = 0.5
    x = torch.rand(B, 3, SIZE, SIZE, dtype=torch.float64)
    noise = torch.randn(B, K, D, dtype=torch.float64)
    assert_same_loss_and_gradients(plain_monet_loss(guide, x, noise), published_loss(guide, x, noise), guide)


@pytest.mark.parametrize("num_slots", [2, 5, 11, 15])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_attention_masks_sum_to_one_for_every_k(num_slots: int, precision: str) -> None:
    guide = make_guide(num_slots=num_slots)
    guide.attention.precision = precision
    with torch.no_grad():
        guide.attention.logits.weight *= 100  # masks of almost 0 and almost 1, and scopes far below float32's range
        log_masks = guide.attend(torch.rand(B, 3, SIZE, SIZE))
    assert log_masks.shape == (B, num_slots, SIZE, SIZE)
    assert log_masks.isfinite().all()
    assert log_masks.min() < -100
    torch.testing.assert_close(log_masks.logsumexp(1), torch.zeros(B, SIZE, SIZE), rtol=0, atol=1e-5)


def test_gradients_are_finite_where_masks_vanish() -> None:
    guide = make_guide(0.1).train()
    with torch.no_grad():
        guide.attention.logits.weight *= 100
    x = torch.rand(B, 3, SIZE, SIZE)
    for loss in (
        TraceMeanField_ELBO()(guide.model, guide)(x),
        plain_monet_loss(guide, x, torch.randn(B, K, D)),
    ):
        guide.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in guide.parameters())


def test_eval_mode_is_plain_pyro() -> None:
    """In eval mode there are one site, no factors, and the decoder's masks."""
    guide = make_guide(0.3).eval()
    x = torch.rand(B, 3, SIZE, SIZE)
    trace = poutine.trace(guide).get_trace(x)
    sites = [name for name, site in trace.nodes.items() if site["type"] == "sample" and name != "scenes"]
    assert sites == ["z"]
    torch.manual_seed(3)
    loss = TraceMeanField_ELBO()(guide.model, guide)(x)
    torch.manual_seed(3)
    q = guide.posterior(x)
    z = torch.normal(torch.zeros_like(q.loc), torch.ones_like(q.loc)) * q.scale + q.loc
    prior = torch.distributions.Normal(torch.zeros_like(q.loc), torch.ones_like(q.loc))
    kl = torch.distributions.kl_divergence(q, prior).sum()
    torch.testing.assert_close(-loss, guide.model.likelihood(z).log_prob(x).sum() - kl)


@pytest.mark.filterwarnings("ignore::pyro_compvae.programs.TrainModeWarning")
def test_training_adds_named_factors() -> None:
    guide = make_guide(0.3).train()
    guide.kl_weight = 0.5
    trace = poutine.trace(guide).get_trace(torch.rand(B, 3, SIZE, SIZE))
    trace.compute_log_prob()
    for name in ("attention_likelihood", "mask_kl", "lnms", "kl_weight"):
        assert trace.nodes[name]["log_prob"].shape == (B,)
    assert trace.nodes["mask_kl"]["log_prob"].min() > 0  # a penalty: a guide's factor lowers the ELBO


class _TwoPixelDecoder(SpatialBroadcastDecoder):
    """A decoder with D = 1: the slot's grey value is sigmoid(z), its mask logit z on the left and −z on the right."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        means = torch.sigmoid(z)[..., None, None].expand(*z.shape[:-1], 3, *self.image_size)
        side = torch.tensor([1.0, -1.0]).repeat_interleave(self.image_size[1] // 2).expand(*self.image_size)
        return means, z[..., None, None] * side


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_eval_elbo_is_a_bound(strength: float) -> None:
    """For K = 2 and D = 1, log p(x) is computed by quadrature over the plane."""
    size = (8, 8)
    torch.manual_seed(1)
    decoder = _TwoPixelDecoder(1, size, DecoderConfig(channels=(2,)))
    guide = MonetGuide(
        SceneModel(decoder, 2, scale=1.0),
        AttentionNetwork(size, AttentionNetworkConfig(channels=(4, 4), bottleneck=4)),
        ComponentEncoder(1, size, ComponentEncoderConfig(encoder_channels=(4, 4), encoder_hidden=8)),
        lnms_strength=strength,
    ).eval()
    x = torch.rand(2, 3, *size)
    grid = torch.linspace(-6, 6, 401)
    z = torch.cartesian_prod(grid, grid)[:, :, None]  # (L, 2, 1)
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum((1, 2))
    with torch.no_grad():
        log_joint = guide.model.likelihood(z[:, None]).log_prob(x) + log_prior[:, None]  # (L, B)
        evidence = log_joint.double().logsumexp(0) + 2 * math.log(12 / 400)
        samples = torch.tensor([-Trace_ELBO().loss(guide.model, guide, x) for _ in range(400)])
    error = samples.std() / math.sqrt(len(samples))
    assert samples.mean() <= evidence.sum() + 3 * error
    assert samples.mean() > evidence.sum() - 20  # a bound of minus infinity would pass the line above


def test_sizes_that_do_not_fit_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"image_size: expected at least 8 pixels in height and width for 3 attention.*got \(18, 7\)"
    ):
        AttentionNetwork((18, 7), AttentionNetworkConfig(channels=(4, 4, 4)))
    with pytest.raises(ValueError, match="image_size: expected at least 32 pixels"):
        AttentionNetwork((16, 16), AttentionNetworkConfig(channels=(4, 4, 4, 4, 4)))
    with pytest.raises(ValueError, match="image_size: expected images large enough for 3 encoder layers"):
        ComponentEncoder(D, (8, 8), ComponentEncoderConfig(encoder_channels=(4, 4, 4)))


def test_blocks_normalise_instances_and_keep_the_layout() -> None:
    block = _block(4, 6).double().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.nn.init.normal_(block[1].weight)
    torch.nn.init.normal_(block[1].bias)
    x = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    normalised = F.instance_norm(block[0](x), weight=block[1].weight, bias=block[1].bias)
    result = block(x)
    torch.testing.assert_close(result, torch.relu(normalised))
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_a_gated_encoder_sees_nothing_but_its_component() -> None:
    config = ComponentEncoderConfig(encoder_channels=(4, 4), encoder_hidden=8, gated=True, initial_scale=0.05)
    encoder = ComponentEncoder(D, (SIZE, SIZE), config)
    log_mask = torch.full((1, 1, SIZE, SIZE), -100.0)
    log_mask[..., :8] = 0.0
    image = torch.rand(1, 3, SIZE, SIZE)
    other = torch.cat((image[..., :8], torch.rand(1, 3, SIZE, 8)), dim=-1)
    ours, theirs = (encoder(torch.cat((x, log_mask), dim=1)) for x in (image, other))
    torch.testing.assert_close(ours, theirs)
    assert not torch.equal(ours, encoder(torch.cat((1 - image, log_mask), dim=1)))
    torch.testing.assert_close(F.softplus(ours[:, D:]), torch.full((1, D), 0.05), rtol=0.5, atol=0)


def test_attention_takes_sides_that_cannot_be_halved_evenly() -> None:
    """The 35 pixels of Tetrominoes become 17, 8 and 4; every pixel has masks, and the last rows and columns count."""
    attention = AttentionNetwork((35, 35), AttentionNetworkConfig(channels=(4, 4, 4, 4), bottleneck=4))
    assert attention.coarse == (4, 4, 4)
    image = torch.rand(1, 3, 35, 35, requires_grad=True)
    log_alpha, log_rest = attention(image, torch.zeros(1, 1, 35, 35))
    torch.testing.assert_close(torch.logaddexp(log_alpha, log_rest), torch.zeros(1, 1, 35, 35))
    log_alpha.square().sum().backward()
    counts = image.grad[0].abs().sum(0) > 0
    assert counts[34].any()
    assert counts[:, 34].any()


def test_attention_on_a_coarse_grid_is_interpolated() -> None:
    config = AttentionNetworkConfig(channels=(4, 4), bottleneck=4, downsample=2, gain=1.0)
    attention = AttentionNetwork((SIZE, SIZE), config)
    log_alpha, log_rest = attention(torch.rand(2, 3, SIZE, SIZE), torch.zeros(2, 1, SIZE, SIZE))
    assert log_alpha.shape == (2, 1, SIZE, SIZE)
    torch.testing.assert_close(torch.logaddexp(log_alpha, log_rest), torch.zeros(2, 1, SIZE, SIZE))
    with pytest.raises(ValueError, match="multiples of downsample = 3"):
        AttentionNetwork((SIZE, SIZE), AttentionNetworkConfig(channels=(4, 4), downsample=3))
