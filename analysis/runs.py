"""Loading of run folders, and of their exports, for evaluation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from pyro_compvae.data import SceneSet, load_scenes
from pyro_compvae.device import check_device, torch_defaults
from pyro_compvae.errors import ConfigError
from pyro_compvae.guide import SceneGuide
from pyro_compvae.guides import build_guide
from pyro_compvae.models import SlotModel
from pyro_compvae.runs.checkpoint import CheckpointError, load_checkpoint
from pyro_compvae.runs.config import MODEL_FIELDS, RunConfig, differences, from_yaml
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.weights import check_weights, load_weights
from pyro_compvae.training.schedules import kl_weight


@dataclass(frozen=True)
class Run:
    """A trained run, whose model and guide are in eval mode and so are plain Pyro.

    path: the run folder, or an export of it.
    config: the configuration in its ``config.yaml``, with the K that was asked for.
    step: the number of training steps that led to the weights.
    """

    path: Path
    config: RunConfig
    step: int
    model: SlotModel
    guide: SceneGuide

    @property
    def folder(self) -> RunFolder:
        """The files of the run."""
        return RunFolder(self.path)

    def scenes(self, split: str) -> SceneSet:
        """The scenes of a split, "train", "validation" or "test", that the run used.

        Raises:
            DataError: if they are on disk and have been moved or removed (`load_run` can be told their new place), or
                are malformed.
        """
        return load_scenes(self.config.data, split, multi_view=self.config.multi_view)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.model.parameters()).device

    @cached_property
    def identity(self) -> dict[str, str | int]:
        """The identity of this run in the files computed from it: a hash of its weights and K, and its step."""
        digest = hashlib.sha256(str(self.model.num_slots).encode())
        for name, value in self.guide.state_dict().items():
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return {"weights": digest.hexdigest()[:16], "step": self.step}


def load_run(
    path: Path | str,
    device: torch.device | str = "cpu",
    num_slots: int | None = None,
    data_root: Path | str | None = None,
) -> Run:
    """Load a run folder, or an export of one (`analysis.export_run`), for evaluation.

    The weights are in checkpoint.pt or in model.safetensors; a folder with both is refused. ``num_slots`` may differ
    from the K of training, since no weight depends on K. ``data_root`` is the place of the data now, if they have moved
    since training: the file of scenes, or the folder of the data set.

    Weights are loaded in the precision in which they were trained, on the device asked for, whatever torch's defaults
    are.

    Raises:
        CheckpointError: if the folder holds no run, or its weights are missing, cannot be opened, are damaged, or
            belong to another configuration.
        ConfigError: if this machine has no such device, or the run's scenes are made on the spot and have no place.
    """
    folder, device = RunFolder(Path(path)), check_device(device)
    config = folder.config()
    file = _weights_file(folder)
    content = load_weights(file) if file == folder.weights else load_checkpoint(file)
    if differences(_config_of(file, content["config"]), config):
        raise CheckpointError(
            f"{folder.path}: expected {file.name} and config.yaml of the same run, but their configurations differ. "
            "Has one of them been copied from elsewhere or edited?"
        )
    if data_root is not None:
        config = config.replace({"data.root": str(Path(data_root).resolve())})
    # bfloat16 is for training: in the default preset its rounding moves log p(x, z) by 0.4 nats, and by up to 1.5.
    with torch_defaults():
        guide = build_guide(config.replace({"training.precision": "float32"}))
    check_weights(file, content["guide"], guide.state_dict())
    guide.load_state_dict(content["guide"])
    guide.to(device)
    # The refinement network was trained on gradients of the ELBO at this β, which is constant after the warm-up, and
    # with GECO is divided by the λ among the weights.
    guide.kl_weight = kl_weight(config, max(content["step"] - 1, 0))
    if num_slots is not None:
        config = config.replace({"num_slots": num_slots})
        guide.model.num_slots = num_slots
    guide.eval()
    return Run(folder.path, config, content["step"], guide.model, guide)


def _weights_file(folder: RunFolder) -> Path:
    found = [file for file in (folder.checkpoint, folder.weights) if file.is_file()]
    if len(found) == 2:
        checkpoint, weights = (file.name for file in found)
        raise CheckpointError(
            f"{folder.path}: expected {checkpoint} of a run or {weights} of an export, found both. Move one of them to "
            "a folder of its own, with the config.yaml of its run."
        )
    return found[0] if found else folder.checkpoint


def _config_of(file: Path, text: str) -> RunConfig:
    try:
        return from_yaml(text)
    except ConfigError as error:
        raise CheckpointError(f"{file}: expected a configuration beside the weights, but {error}") from error


def take_over_model(guide: SceneGuide, config: RunConfig) -> None:
    """Give a guide the generative model of the run that ``config.frozen_model`` names.

    Raises:
        CheckpointError: if the folder holds no run.
        ConfigError: if its model is not the one that the configuration describes.
    """
    assert config.frozen_model is not None
    run = load_run(config.frozen_model)
    changed = differences(run.config, config, MODEL_FIELDS)
    if changed:
        raise ConfigError(
            f"frozen_model: expected the model of {config.frozen_model} to be that of this run, but "
            f"{'; '.join(changed)}. Give the same --preset, --dataset and --set as for that run."
        )
    guide.model.load_state_dict(run.model.state_dict())
