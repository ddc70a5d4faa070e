"""Files that are either written whole or not at all, and checkpoints in them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or of another run."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file to write to, renamed to `path` on success and deleted on failure."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files for the owner only; give them the permissions of any other new file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, and lists and dictionaries of them, atomically."""
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(
    path: Path, device: torch.device | str = "cpu", entries: Iterable[str] = ("config", "step", "guide")
) -> dict[str, Any]:
    """Read a checkpoint, which has to have these entries, without unpickling anything but tensors and containers.

    Raises:
        CheckpointError: if the file is missing, damaged, or not such a checkpoint.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a checkpoint, found no such file. Has the run saved one yet?")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    # torch.load raises errors of many kinds on damaged files.
    except Exception as error:
        raise CheckpointError(
            f"{path}: expected a checkpoint of tensors and plain containers, but it cannot be read ({error}). "
            "It may be damaged, or written by another program."
        ) from error
    missing = set(entries) - set(content if isinstance(content, dict) else ())
    if missing:
        raise CheckpointError(
            f"{path}: expected the entries {', '.join(entries)}, missing {sorted(missing)}. Was it written by another "
            "version?"
        )
    return content
