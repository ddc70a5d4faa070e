"""Checkpoints, from which training continues."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from pyro_compvae.errors import CompvaeError
from pyro_compvae.runs.files import check_opens, unreadable, write_bytes


class CheckpointError(CompvaeError, RuntimeError):
    """A checkpoint is missing, damaged, or belongs to another run."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, and lists and dictionaries of them, atomically."""
    buffer = io.BytesIO()
    torch.save(content, buffer)  # not directly into the file, because torch.save hides why writing failed
    # getvalue makes no copy. A view of the buffer in the traceback of a failure would crash Python 3.12.1 when it
    # collects garbage.
    write_bytes(path, buffer.getvalue())


def load_checkpoint(path: Path, entries: Iterable[str] = ("config", "step", "guide")) -> dict[str, Any]:
    """Read a checkpoint, which must have these entries, without unpickling anything but tensors and containers.

    Its tensors are loaded onto the CPU, whatever device they were saved from.

    Raises:
        CheckpointError: if the file is missing, cannot be opened, is damaged, or lacks an entry.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a checkpoint, found no such file. Has the run saved one yet?")
    check_opens(path, CheckpointError)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(unreadable(path, error)) from error
    # torch.load raises errors of many kinds on damaged files.
    except Exception as error:
        raise CheckpointError(
            f"{path}: expected a checkpoint of tensors and plain containers, but it cannot be read ({error}). "
            "It may be damaged, written by another program, or larger than the memory."
        ) from error
    missing = set(entries) - set(content if isinstance(content, dict) else ())
    if missing:
        raise CheckpointError(
            f"{path}: expected the entries {', '.join(entries)}, missing {sorted(missing)}. Was it written by another "
            "version?"
        )
    return content
