"""Files that are either written whole or not at all."""

from __future__ import annotations

import errno
import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyro_compvae.errors import DiskFullError

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
