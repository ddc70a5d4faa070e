"""Run folders, ready for evaluation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from guides import build_guide
from pyro_compvae.checkpoint import CheckpointError, load_checkpoint
from pyro_compvae.config import MODEL_FIELDS, ConfigError, RunConfig, differences, from_yaml
from pyro_compvae.guide import SceneGuide
from pyro_compvae.models import SlotModel
from pyro_compvae.schedules import kl_weight


@dataclass(frozen=True)
class Run:
    """A trained run, in eval mode: model and guide are plain Pyro.

    path: the run folder.
    config: as in its ``config.yaml``, but for the K asked for.
    step: training steps behind the weights.
    """

    path: Path
    config: RunConfig
    step: int
    model: SlotModel
    guide: SceneGuide

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @cached_property
    def identity(self) -> dict[str, str | int]:
        """What tells this run from all others in the files computed from it: a hash of its weights, K, and its step."""
        digest = hashlib.sha256(str(self.model.num_slots).encode())
        for name, value in self.guide.state_dict().items():
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return {"weights": digest.hexdigest()[:16], "step": self.step}


def load_run(path: Path | str, device: torch.device | str = "cpu", num_slots: int | None = None) -> Run:
    """Load a run folder for evaluation, with the K it was trained with or another (no weight depends on K).

    Raises:
        CheckpointError: if the folder is no run, or its checkpoint is missing, damaged or of another configuration.
    """
    path = Path(path)
    config_path = path / "config.yaml"
    if not config_path.is_file():
        raise CheckpointError(f"{path}: expected a run folder with a config.yaml, found none")
    config = from_yaml(config_path.read_text(encoding="utf-8"))
    content = load_checkpoint(path / "checkpoint.pt", device)
    if differences(from_yaml(content["config"]), config):
        raise CheckpointError(
            f"{path}: expected checkpoint.pt and config.yaml of the same run, but their configurations differ. "
            "Has one of them been copied from elsewhere or edited?"
        )
    # bfloat16 is for training: in the default preset its rounding moves log p(x, z) by 0.4 nats, and by up to 1.5.
    guide = build_guide(config.replace({"training.precision": "float32"})).to(device)
    guide.load_state_dict(content["guide"])
    # The refinement network was trained on gradients of the ELBO at this β; constant once the warm-up is over.
    guide.kl_weight = kl_weight(config, max(content["step"] - 1, 0))
    if num_slots is not None:
        config = config.replace({"num_slots": num_slots})
        guide.model.num_slots = num_slots
    guide.eval()
    return Run(path, config, content["step"], guide.model, guide)


def take_over_model(guide: SceneGuide, config: RunConfig) -> None:
    """Give a guide the generative model of the run that ``config.frozen_model`` names.

    Raises:
        CheckpointError: if that is no run.
        ConfigError: if its model is not the one that the configuration describes.
    """
    assert config.frozen_model is not None
    run = load_run(config.frozen_model)
    changed = differences(run.config, config, MODEL_FIELDS)
    if changed:
        raise ConfigError(
            f"--frozen-model: expected the model of {config.frozen_model} to be that of this run, but "
            f"{'; '.join(changed)}. Give the same --preset, --dataset and --set as there."
        )
    guide.model.load_state_dict(run.model.state_dict())
