"""MONet: recurrent attention that divides the image among slots, and a VAE for each of them."""

from __future__ import annotations

import pyro
import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.factors import add_term
from pyro_compvae.guide import SceneGuide, Weight
from pyro_compvae.guides.gaussian import Gaussian
from pyro_compvae.guides.monet_networks import AttentionNetwork, ComponentEncoder
from pyro_compvae.images import check_images
from pyro_compvae.models import SceneModel
from pyro_compvae.precision import own_precision


class MonetGuide(SceneGuide):
    r"""Attention by stick-breaking, then one encoder for all components (Burgess et al. 2019, arXiv 1901.11390).

        log s_0 = 0;   log α_k = attention(x, log s_{k−1});   log a_k = log s_{k−1} + log α_k
        log s_k = log s_{k−1} + log(1 − α_k);                  log a_K = log s_{K−1}: what is left
        q(z_k | x) = N(encoder(x, log a_k))

    In train mode the published objective

        log Σ_k a_k N(x; μ_k, σ²)  −  β KL(q ‖ p)  −  γ KL(a ‖ m)  +  s L_NMS(z),      (μ, m) decoded from z ~ q,

    takes the attention masks a, which depend on x, as mixing proportions, and is therefore *not* a bound on log p(x).
    It does not score images as the model does, so the model leaves out the site "x" when an ELBO replays it against
    this guide, and the rest are factors: "attention_likelihood", "mask_kl", "lnms" and, where β ≠ 1, "kl_weight". In
    eval mode there are no factors, the model mixes by the decoder's masks m, and the ELBO is a bound.

    There is no published code. These are the departures from the re-implementation in object-centric-library. Loss and
    gradients agree with it once they are undone:

    * the likelihood of a pixel is joint over its channels (theirs: a mixture for each channel);
    * all slots have the model's σ, which keeps them exchangeable (theirs: 0.09 for the first one, 0.11 for the others);
    * the mask KL is exact, in log space (theirs clamps masks at 1e-5);
    * the scale of a latent goes through softplus (theirs: an exponential);
    * the last layer of the attention starts with weights ten times as large (`AttentionNetworkConfig.gain`), and the
      decoder with weights that keep variances (theirs: torch's default);
    * in the presets for renders and Tetrominoes an encoder sees its component alone instead of the whole image beside
      the mask, and attention starts soft, with renders on a coarse grid (`ComponentEncoder`, `AttentionNetwork`).

    Args:
        model: the generative model, whose decoder is trained along with the guide.
        attention: maps images and log scopes (B, 4, H, W) to logits of α and 1 − α (B, 2, H, W).
        encoder: maps images and log masks (N, 4, H, W) to mean and raw scale (N, 2 D).
        mask_strength: γ, the weight of the mask KL. A training schedule may set it.
        lnms_strength, lnms_scale: s and σ_c of L-NMS.
    """

    title = "MONet"
    metrics_note = "Masks are the decoder's, which are part of the model, not those of the attention network."
    known_limit = (
        "MONet's training objective is no bound on log p(x). The ELBO above, with the masks of the decoder, is one."
    )
    model: SceneModel

    def __init__(
        self,
        model: SceneModel,
        attention: AttentionNetwork,
        encoder: ComponentEncoder,
        mask_strength: Weight = 0.5,
        lnms_strength: float = 0.0,
        lnms_scale: float = 0.1,
    ) -> None:
        super().__init__(model, lnms_strength, lnms_scale)
        self.attention = attention
        self.encoder = encoder
        self.mask_strength = mask_strength

    def attend(self, x: Tensor) -> Tensor:
        """Log attention masks (B, K, H, W) of images x (B, 3, H, W); the masks sum to one over K."""
        check_images(x, self.model)
        log_scope = torch.zeros_like(x[:, :1])
        log_masks = []
        for _ in range(self.model.num_slots - 1):
            log_alpha, log_rest = self.attention(x, log_scope)
            log_masks.append(log_scope + log_alpha)
            log_scope = log_scope + log_rest
        return torch.cat((*log_masks, log_scope), dim=1)

    @own_precision
    def posterior(self, x: Tensor) -> Normal:  # type: ignore[override]
        """q(z | x), batch shape (B, K, D), of images x (B, 3, H, W) in [0, 1]."""
        return self._encode(x, self.attend(x))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Sample "z" (B, K, D) for images x (B, 3, H, W)."""
        log_attention = self.attend(x)
        q = self._encode(x, log_attention)
        with pyro.plate("scenes", len(x), dim=-1):
            z = self._sample(q, images_scored=self.training)
            if self.training:
                decoded = self.model.likelihood(z)
                joint = log_attention + decoded.component_log_prob(x)
                add_term("attention_likelihood", joint.logsumexp(-3).sum((-2, -1)))
                mask_kl = (log_attention.exp() * (log_attention - decoded.log_masks)).sum((-3, -2, -1))
                add_term("mask_kl", -self.mask_strength * mask_kl)
                self._add_regularisers(q, z)
        return z

    def log_likelihood(self, model_trace: Trace, guide_trace: Trace) -> Tensor:
        """log Σ_k a_k N(x; μ_k, σ²) of the images of a training step, (B,) in nats."""
        return -guide_trace.nodes["attention_likelihood"]["log_prob"]

    def _encode(self, x: Tensor, log_masks: Tensor) -> Normal:
        B, K = log_masks.shape[:2]
        images = x.unsqueeze(1).expand(-1, K, -1, -1, -1)
        inputs = torch.cat((images, log_masks.unsqueeze(2)), dim=2)
        parameters = self.encoder(inputs.flatten(0, 1)).unflatten(0, (B, K))
        return Gaussian(*parameters.chunk(2, dim=-1)).distribution()
