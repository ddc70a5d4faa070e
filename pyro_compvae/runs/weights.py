"""Weights to share, as safetensors files, which hold plain numbers and nothing that could run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from pyro_compvae.runs.checkpoint import CheckpointError
from pyro_compvae.runs.files import check_opens, write_bytes

FORMAT = "1"
"""Version of the metadata; files of other versions are refused."""


def save_weights(path: Path, config: str, step: int, weights: Mapping[str, Tensor]) -> None:
    """Write the weights of a guide and its model atomically, with their configuration and step as metadata.

    Args:
        path: the safetensors file.
        config: the configuration, as YAML.
        step: the number of training steps that led to the weights.
        weights: the weights by name, as in a state dict.
    """
    metadata = {"format": "pt", "pyro_compvae": FORMAT, "step": str(step), "config": config}
    # Safetensors does not keep the memory layout of channels-last weights.
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    write_bytes(path, save(tensors, metadata))  # save_file would hide why writing failed


def load_weights(path: Path) -> dict[str, Any]:
    """Read a file of `save_weights` into the entries of a checkpoint that evaluation needs: config, step, guide.

    Raises:
        CheckpointError: if the file is missing, cannot be opened, is damaged, or is from another program or version.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: expected the weights of an exported run, found no such file")
    check_opens(path, CheckpointError)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()} if "pyro_compvae" in metadata else {}  # noqa: SIM118
    # safe_open raises errors of several kinds on damaged files.
    except Exception as error:
        raise CheckpointError(
            f"{path}: expected a safetensors file, but it cannot be read ({error}). It may be larger than the memory, "
            "damaged, or cut short on its way: get it again."
        ) from error
    if metadata.get("pyro_compvae") != FORMAT:
        raise CheckpointError(
            f"{path}: expected weights written by `compvae export` in format {FORMAT}, got "
            + (f"format {metadata['pyro_compvae']}" if "pyro_compvae" in metadata else "those of another program")
            + ". Export the run again with this version."
        )
    step = metadata.get("step", "")
    if not (step.isascii() and step.isdigit()) or "config" not in metadata:
        raise CheckpointError(
            f"{path}: expected a configuration and a number of steps in the metadata, got {sorted(metadata)} and step "
            f"{step!r}. Export the run again."
        )
    return {"config": metadata["config"], "step": int(step), "guide": weights}
