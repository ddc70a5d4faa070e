"""Weights to share, as safetensors files, which hold plain numbers and nothing that could run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from pyro_compvae.checks import is_step
from pyro_compvae.errors import ArgumentError
from pyro_compvae.runs.checkpoint import CheckpointError
from pyro_compvae.runs.files import check_opens, write_bytes

FORMAT = "1"
"""Version of the metadata; files of other versions are refused."""

MAX_HEADER = 1 << 20
"""The largest header, in bytes, which names all tensors; that of the paper's models has about ten thousand."""


def save_weights(path: Path, config: str, step: int, weights: Mapping[str, Tensor], half: bool = False) -> None:
    """Write the weights of a guide and its model atomically, with their configuration and step as metadata.

    Args:
        path: the safetensors file.
        config: the configuration, as YAML.
        step: the number of training steps that led to the weights.
        weights: the weights by name, as in a state dict.
        half: whether weights are rounded to float16, which `load_weights` reads as float32.
    """
    metadata = {"format": "pt", "pyro_compvae": FORMAT, "step": str(step), "config": config}
    # Safetensors does not keep the memory layout of channels-last weights.
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    if half:
        tensors = {name: value.half() if value.dtype == torch.float32 else value for name, value in tensors.items()}
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
        with path.open("rb") as start:
            header = int.from_bytes(start.read(8), "little")
        if header > MAX_HEADER:
            raise ArgumentError(f"its header has {header} bytes, more than {MAX_HEADER}")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys() if "pyro_compvae" in metadata else ()
            weights = {name: _full(file.get_tensor(name)) for name in names}
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
    if not is_step(step) or "config" not in metadata:
        raise CheckpointError(
            f"{path}: expected a configuration and a number of steps in the metadata, got {sorted(metadata)[:9]} and "
            f"step {step[:40]!r}. Export the run again."
        )
    return {"config": metadata["config"], "step": int(step), "guide": weights}


def _full(weight: Tensor) -> Tensor:
    return weight.float() if weight.dtype == torch.float16 else weight


def check_weights(file: Path, found: Mapping[str, Any], expected: Mapping[str, Tensor]) -> None:
    """Refuse weights that do not fit the guide that the configuration describes.

    Args:
        file: the file of the weights.
        found: the weights in it, by name.
        expected: the weights of a guide that was built from the configuration, by name.

    Raises:
        CheckpointError: if a weight is missing, unknown, or of another shape or type; the message names three of them.
    """
    kinds = [
        {
            name: f"{tuple(w.shape)} {w.dtype}" if isinstance(w, Tensor) else type(w).__name__
            for name, w in weights.items()
        }
        for weights in (expected, found)
    ]
    wrong = [
        f"{name}: expected {kinds[0].get(name, 'no such weight')}, got {kinds[1].get(name, 'none')}"
        for name in kinds[0] | kinds[1]
        if kinds[0].get(name) != kinds[1].get(name)
    ]
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"{file}: expected the weights of the guide that config.yaml describes, but {'; '.join(wrong[:3])}{more}. "
            "They are of another run, or of another version."
        )
