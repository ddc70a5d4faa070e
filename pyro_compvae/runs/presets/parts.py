"""Parts that several presets share."""

from __future__ import annotations

from pyro_compvae.runs.sections import RefinementConfig, TrainingConfig

SMALL_REFINEMENT = RefinementConfig(
    num_iterations=5,
    contraction=1.0,
    channels=(32, 32),
    mlp=(),
    recurrent=False,
    pooling="flatten",
    num_frequencies=3,
    layer_norm="split",
)
"""A refinement network for two CPU cores. Besides the sizes, it differs from the paper: features keep their positions,
there are Fourier features of the coordinates and no LSTM, gradients of means and scales are normalised one by one, and
posteriors start wide and contract."""


def training(steps: int, batch_size: int = 16, kl_weight: float = 1.0, kl_warmup_steps: int = 1_000) -> TrainingConfig:
    """Adam with a larger learning rate than the papers', which falls over all steps, and a warm-up of β."""
    return TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        learning_rate=1e-3,
        beta1=0.95,
        warmup_steps=200,
        decay_steps=steps,
        kl_weight=kl_weight,
        kl_warmup_steps=kl_warmup_steps,
        evaluate_every=250,
        checkpoint_every=250,
    )
