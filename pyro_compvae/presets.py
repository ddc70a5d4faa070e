"""Named configurations."""

from __future__ import annotations

from pyro_compvae.config import (
    ConfigError,
    DataConfig,
    DatasetName,
    DecoderConfig,
    LnmsConfig,
    RefinementConfig,
    RunConfig,
    TrainingConfig,
)

PRESETS = ("default", "paper", "tiny")


def preset(name: str, guide: str = "iodine", dataset: DatasetName = "sprites") -> RunConfig:
    """The configuration of that name for a guide and a data set.

    "paper" is Table 3 of the paper at 64×64 with K = 7, D = 16; "default" is sized for two CPU cores; "tiny" runs for
    seconds and learns nothing.

    Raises:
        ConfigError: for an unknown preset or guide.
    """
    if guide != "iodine":
        raise ConfigError(f"--guide: expected iodine, got {guide!r}")
    makers = {"default": _default, "paper": _paper, "tiny": _tiny}
    if name not in makers:
        raise ConfigError(f"--preset: expected one of {', '.join(PRESETS)}; got {name!r}")
    return makers[name](dataset)


def _paper(dataset: DatasetName) -> RunConfig:
    """Table 3; the networks are those of Greff et al. 2019 for CLEVR6, with D = 16 as the paper has it."""
    return RunConfig(preset="paper", num_slots=7, latent_dim=16, data=DataConfig(dataset, image_size=64))


def _default(dataset: DatasetName) -> RunConfig:
    """Two CPU cores, less than half an hour; README, "What it took", tells what was tried.

    What differs from the paper, beside the sizes: a coarse decoder grid with sub-pixel output, Fourier features of the
    coordinates, refinement features that keep their positions, no LSTM, posteriors that start wide and contract,
    a KL warm-up. L-NMS has the paper's strength per pixel: 1 at 64×64 is 0.15 at 24×24.
    """
    sprites = dataset == "sprites"
    return RunConfig(
        preset="default",
        num_slots=5 if sprites else 7,
        latent_dim=8 if sprites else 16,
        data=DataConfig(dataset, image_size=24 if sprites else 32),
        # On renders, coarse grids let slots share pixels by turns: stripes instead of objects.
        decoder=DecoderConfig(
            channels=32 if sprites else 16, num_layers=3, num_frequencies=3, upsample=3 if sprites else 1
        ),
        refinement=RefinementConfig(
            num_iterations=3,
            contraction=1.0,
            channels=(32, 32),
            mlp=(),
            recurrent=False,
            pooling="flatten",
            num_frequencies=3,
        ),
        lnms_prior=LnmsConfig(strength=0.15),
        training=TrainingConfig(
            steps=4_000,
            batch_size=16,
            learning_rate=1e-3,
            beta1=0.95,
            warmup_steps=200,
            decay_steps=4_000,
            kl_warmup_steps=1_500,
            evaluate_every=250 if sprites else 50,
            checkpoint_every=250,
        ),
    )


def _tiny(dataset: DatasetName) -> RunConfig:
    """Seconds: to see that everything runs."""
    sprites = dataset == "sprites"
    return RunConfig(
        preset="tiny",
        num_slots=4 if sprites else 7,
        latent_dim=4,
        data=DataConfig(dataset, image_size=16, num_train=64, num_test=16),
        decoder=DecoderConfig(channels=4, num_layers=2),
        refinement=RefinementConfig(num_iterations=2, channels=(4, 4), mlp=(8,), hidden=8),
        training=TrainingConfig(steps=4, batch_size=4, log_every=1, evaluate_every=2, checkpoint_every=2),
    )
