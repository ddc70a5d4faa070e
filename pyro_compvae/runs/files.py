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
"""The system's error numbers for a full disk, and for a used-up quota or limit."""


STALE = 3600.0
"""Age in seconds since its last change at which a temporary file counts as left by a killed process."""


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """A context that says which file could not be written to a full disk.

    Raises:
        DiskFullError: if the system reports a full disk.
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
    """A context with a temporary file to write to, which is renamed to `path` on success and deleted on failure.

    Raises:
        DiskFullError: if the disk has no room for the file.
    """
    with naming_full_disk(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(descriptor)
        temporary = Path(name)
        try:
            _remove_leftovers(path, temporary)
            yield temporary
            _sync(temporary)
            # mkstemp makes files for the owner only; this gives them the permissions of any other new file.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
            with suppress(OSError):  # some file systems cannot sync a folder
                _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Make sure that a file, or the names in a folder, would survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(path: Path, temporary: Path) -> None:
    """Delete the files that processes killed while writing `path` have left, but none that is being written."""
    now = temporary.stat().st_mtime  # the present time by the clock of the file system
    name = f".{glob.escape(path.stem)}-????????{glob.escape(path.suffix)}"  # mkstemp adds eight characters
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
    """Refuse a file that cannot be opened, before a reader reports it as damaged.

    Raises:
        error: if the system does not open the file for reading.
    """
    try:
        path.open("rb").close()
    except OSError as problem:
        raise error(unreadable(path, problem)) from problem


def unreadable(path: Path, problem: OSError) -> str:
    """The message about a file that the system does not allow to be read."""
    return f"{path}: cannot be read ({problem.strerror}). Look at its permissions, and at the disk that it is on."
