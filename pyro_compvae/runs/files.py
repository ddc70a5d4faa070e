"""Files and folders that are either written whole or not at all."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyro_compvae.errors import DiskFullError, FileError

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
        prefix = f".{shortened(path.stem)}-"
        with _naming(path):
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=path.suffix)
        os.close(descriptor)
        temporary = Path(name)
        try:
            _remove_leftovers(prefix, path.suffix, temporary)
            yield temporary
            _sync(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            _sync_names(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A context with a temporary folder to fill, which is renamed to `path` on success and deleted on failure.

    Args:
        path: a new or empty folder; its parents are made.

    Raises:
        DiskFullError: if the disk has no room for the folder.
    """
    with naming_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{shortened(path.name)}-"
        with _naming(path):
            temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix))
        try:
            _remove_leftovers(prefix, "", temporary)
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            if path.exists():
                path.rmdir()  # Windows renames nothing to a name that is taken; the folder is empty
            temporary.rename(path)
            _sync_names(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """A context whose errors name this path, and not a temporary one beside it."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def shortened(name: str, size: int = 200) -> str:
    """The beginning of a name, of so many bytes that more can be added; file systems take 255."""
    return name.encode()[:size].decode(errors="ignore")


def _umask() -> int:
    """The permissions that new files do not have; temporary ones are made for their owner only."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _sync(path: Path) -> None:
    """Make sure that a file would survive a loss of power."""
    descriptor = os.open(path, os.O_RDWR)  # Windows syncs no file that is open for reading only
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_names(folder: Path) -> None:
    """Make sure that the names in a folder would survive a loss of power, where a folder can be opened and synced."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_leftovers(prefix: str, suffix: str, temporary: Path) -> None:
    """Delete the files and folders that killed processes have left, but none that are being written.

    Args:
        prefix: the beginning of their names, which eight characters follow.
        suffix: the end of their names.
        temporary: the file or folder of this process.
    """
    now = temporary.stat().st_mtime  # the present time by the clock of the file system
    for leftover in temporary.parent.glob(f"{glob.escape(prefix)}????????{glob.escape(suffix)}"):
        with suppress(FileNotFoundError):  # another process was quicker
            inner = leftover.rglob("*") if leftover.is_dir() else ()
            if now - max(path.stat().st_mtime for path in (leftover, *inner)) > STALE:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def check_writable(folder: Path) -> None:
    """Refuse a folder into which nothing can be written, before hours of work for it.

    Raises:
        FileError: if the system makes no file there.
    """
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise unwritable(folder, error) from error


def make_own_folder(path: Path) -> None:
    """Make a folder in the folder of a run, unless it is there.

    Raises:
        FileError: if a link is there, by which the folder of a stranger would have files written elsewhere.
        DiskFullError: if the disk has no room for it.
    """
    if path.is_symlink():
        raise FileError(
            f"{path}: expected a folder of the run, found a link to elsewhere. Put the folder itself there."
        )
    with naming_full_disk(path):
        path.mkdir(exist_ok=True)


def unwritable(folder: Path, problem: OSError) -> FileError:
    """The error about a folder in which the system makes no file."""
    if problem.errno in FULL:
        return DiskFullError(f"{folder}: nothing can be written there, the disk is full ({problem.strerror})")
    return FileError(
        f"{folder}: expected a folder to write into, but it cannot be ({problem.strerror}). Look at its permissions. "
        "If only others may write into the folder of a run, copy it and use the copy"
    )


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
