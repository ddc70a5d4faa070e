"""Files that are either written whole or not at all, and checkpoints in them."""

from __future__ import annotations

from pyro_compvae.errors import ConfigError, DiskFullError

from pyro_compvae.errors import CompvaeError

import errno
import glob
import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

class CheckpointError(CompvaeError, RuntimeError):
    """A checkpoint is missing, damaged, or of another run."""


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where the disk is full, or a quota or limit is used up."""

STALE = 3600.0
"""Seconds after its last change, from which on a temporary file is one that a killed process has left."""


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Say what could not be written to a full disk.

    Raises:
        DiskFullError: where the system says so.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskFullError(
            f"{path}: cannot be written, the disk is full ({error.strerror}). What was there before is kept; free some "
            "space, then give the same command again"
        ) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file to write to, renamed to `path` on success and deleted on failure.

    Raises:
        DiskFullError: if there is no room for it.
    """
    with naming_full_disk(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(descriptor)
        temporary = Path(name)
        try:
            _remove_leftovers(path, temporary)
            yield temporary
            _sync(temporary)
            # mkstemp makes files for the owner only; give them the permissions of any other new file.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
            with suppress(OSError):  # some file systems know no such thing
                _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(path: Path, temporary: Path) -> None:
    """Delete what processes that were killed while they wrote `path` have left, but nothing that is being written."""
    now = temporary.stat().st_mtime  # by the clock of the file system
    name = f".{glob.escape(path.stem)}-????????{glob.escape(path.suffix)}"  # the eight are mkstemp's
    for leftover in path.parent.glob(name):
        with suppress(FileNotFoundError):  # another process was quicker
            if now - leftover.stat().st_mtime > STALE:
                leftover.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, and lists and dictionaries of them, atomically."""
    buffer = io.BytesIO()
    torch.save(content, buffer)  # not into the file, as it does not pass on why writing failed
    # No copy either; a view of it, left in the traceback of a failure, crashes Python 3.12.1 when it collects garbage.
    write_bytes(path, buffer.getvalue())


def check_opens(path: Path, error: type[Exception]) -> None:
    """Tell a file that cannot be opened from one that is damaged, before a reader takes the one for the other.

    Raises:
        error: if the system does not open it for reading.
    """
    try:
        path.open("rb").close()
    except OSError as problem:
        raise error(unreadable(path, problem)) from problem


def unreadable(path: Path, problem: OSError) -> str:
    """What to say of a file that the system does not let be read."""
    return f"{path}: cannot be read ({problem.strerror}). Look at its permissions, and at the disk that it is on."


def load_checkpoint(path: Path, entries: Iterable[str] = ("config", "step", "guide")) -> dict[str, Any]:
    """Read a checkpoint, which has to have these entries, without unpickling anything but tensors and containers.

    Its tensors come to the CPU, wherever they were saved.

    Raises:
        CheckpointError: if the file is missing, cannot be opened, is damaged, or not such a checkpoint.
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
