"""A fourth guide: slots that compete for the features of an image (Locatello et al. 2020, arXiv 2006.15055).

Trained and evaluated by ``python docs/examples/slot_attention_guide.py``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import Normal

from pyro_compvae import DecoderConfig, SceneGuide, SceneModel, SpatialBroadcastDecoder
from pyro_compvae.analysis import evaluate
from pyro_compvae.data import SceneSet, make_sprites
from pyro_compvae.decoder import coordinate_grid
from pyro_compvae.evidence import importance_log_evidence
from pyro_compvae.images import check_images
from pyro_compvae.precision import own_precision


class SlotAttention(nn.Module):
    """Algorithm 1 of Locatello et al.: attention whose weights sum to one over the slots, then a GRU for each slot.

    Maps features (B, N, F) of N places and slots (B, K, F) to new slots (B, K, F); permuting the slots that go in
    permutes those that come out.
    """

    def __init__(self, width: int, num_iterations: int = 3) -> None:
        super().__init__()
        self.num_iterations = num_iterations
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.feature_norm, self.slot_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        for projection in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(projection.weight)
        self.gru = nn.GRUCell(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )

    def forward(self, features: Tensor, slots: Tensor) -> Tensor:
        """Map features (B, N, F) and slots (B, K, F) to new slots (B, K, F)."""
        features = self.feature_norm(features)
        keys, values = self.key(features), self.value(features)
        for _ in range(self.num_iterations):
            queries = self.query(self.slot_norm(slots))
            logits = keys @ queries.mT / queries.shape[-1] ** 0.5  # (B, N, K)
            # A softmax over slots makes them compete for places; one over places gives a mean without division by zero.
            weights = logits.log_softmax(-1).softmax(1)
            updates = weights.mT @ values  # (B, K, F)
            slots = self.gru(updates.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
            slots = slots + self.mlp(slots)
        return slots


class SlotAttentionGuide(SceneGuide):
    """q(z | x) = Π_k N(z_k; head(slot_k)), with slots from `SlotAttention` over convolutional features of x.

    Slots start at random, the same distribution for all, so that they are exchangeable and K is free. Like IODINE's,
    the posterior therefore depends on torch's random numbers; every one of them gives a bound on log p(x).

    Args:
        model: the generative model; its decoder is trained along.
        width: F, of features and slots.
        num_iterations: the number of iterations of attention.
        lnms_strength, lnms_scale: s and σ_c of L-NMS.
    """

    model: SceneModel
    coordinates: Tensor

    def __init__(
        self,
        model: SceneModel,
        width: int = 64,
        num_iterations: int = 3,
        lnms_strength: float = 0.0,
        lnms_scale: float = 0.1,
    ) -> None:
        super().__init__(model, lnms_strength, lnms_scale)
        coordinates = coordinate_grid(model.image_size, num_frequencies=3)
        self.register_buffer("coordinates", coordinates, persistent=False)
        self.encoder = nn.Sequential(
            nn.Conv2d(3 + len(coordinates), width, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 5, padding=2),
            nn.ReLU(),
        )
        for layer in self.encoder:
            if isinstance(layer, nn.Conv2d):  # torch's default would lose most of the variance
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.features = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.initial_mean = nn.Parameter(torch.zeros(width))
        self.initial_scale = nn.Parameter(torch.ones(width))
        self.attention = SlotAttention(width, num_iterations)
        self.head = nn.Linear(width, 2 * model.latent_dim)

    @own_precision
    def posterior(self, x: Tensor) -> Normal:  # type: ignore[override]
        """q(z | x), batch shape (B, K, D), of images x (B, 3, H, W) in [0, 1]."""
        check_images(x, self.model)
        shape = (len(x), self.model.num_slots, len(self.initial_mean))
        noise = torch.randn(shape, dtype=x.dtype, device=x.device)
        return self.refine(x, self.initial_mean + self.initial_scale * noise)

    def refine(self, x: Tensor, slots: Tensor) -> Normal:
        """q(z | x) from the slots (B, K, F) at which attention starts."""
        places = self.coordinates.expand(len(x), -1, -1, -1)
        features = self.features(self.encoder(torch.cat((x, places), dim=1)).flatten(2).mT)  # (B, N, F)
        mean, raw_scale = self.head(self.attention(features, slots)).chunk(2, dim=-1)
        return Normal(mean, F.softplus(raw_scale), validate_args=False)


def make_guide(num_slots: int = 5, latent_dim: int = 8, image_size: int = 24, width: int = 64) -> SlotAttentionGuide:
    """The guide of a model of small images, with the decoder of the preset "default"."""
    config = DecoderConfig(channels=(32, 32, 32), num_frequencies=3, upsample=3)
    decoder = SpatialBroadcastDecoder(latent_dim, (image_size, image_size), config)
    return SlotAttentionGuide(SceneModel(decoder, num_slots), width, lnms_strength=0.15)


def train(guide: SceneGuide, scenes: SceneSet, steps: int, batch_size: int = 16, learning_rate: float = 4e-4) -> None:
    """Train by SVI with torch's Adam: the ELBO is a module, whose parameters are those of guide and model."""
    guide.train()
    elbo = TraceMeanField_ELBO()(guide.model, guide)
    optimiser = torch.optim.Adam(elbo.parameters(), learning_rate)
    for step in range(steps):
        guide.kl_weight = min(1.0, step / 4_000)  # β warms up, so that slots carry information before it costs much
        batch = scenes[torch.randint(len(scenes), (batch_size,))]
        loss = elbo(*guide.arguments(batch)) / batch_size
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(elbo.parameters(), 5.0)
        optimiser.step()
        if (step + 1) % 500 == 0:
            print(f"step {step + 1:,}: loss {loss.item():.0f}", flush=True)


def main(steps: int = 9_000) -> None:
    """Train on sprites, then evaluate unseen scenes and estimate their evidence."""
    torch.manual_seed(0)
    guide = make_guide()
    train(guide, make_sprites("train", 20_000), steps)
    guide.eval()
    test = make_sprites("test", 320)
    print(evaluate(guide, test, torch.device("cpu")))
    estimate = importance_log_evidence(guide.model, guide, test[:16].image, num_samples=500)
    print(f"log p(x): {float(estimate.log_evidence.mean()):.1f} nats. {estimate.verdict()}")


if __name__ == "__main__":
    main()
