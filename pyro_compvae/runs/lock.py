"""Locks, by which a second process notices that a folder is in use.

A lock is a hidden file that names its holder. As long as it is held it is locked by the operating system too, which
releases it when the holder ends, however it ends: a file that a killed process has left is not in anyone's way. Some
network file systems have no such locks, or have them for one machine only. So a holder renews the time of its file,
and a file of another machine that was renewed a short time ago counts as held.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shlex
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyro_compvae.errors import CompvaeError, DiskFullError, FileError
from pyro_compvae.runs.files import naming_full_disk, unwritable

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

RENEWED_EVERY = 30.0
"""How often a holder renews the time of its file, in seconds."""

STALE = 180.0
"""Age in seconds from which the file of another machine counts as left behind. Clients of NFS may see a time a minute
late."""

BUSY = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
"""The system's error numbers for a lock that another process holds; others mean that there are no such locks."""

UNREAD = 1 << 20
"""The byte of a file that is locked on Windows, where a locked byte cannot be read; what is written ends before it."""

_held: dict[Path, int] = {}
"""The locks of this process, with the threads that hold them."""


class LockedError(CompvaeError, RuntimeError):
    """Another process works in the folder."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A context in which no other process, and no other thread, may hold the same lock. Its holder may enter it again.

    Args:
        path: the file of the lock, in the folder that it protects. It is deleted at the end.

    Raises:
        LockedError: if the lock is held; the message says by whom.
        FileError: if nothing can be written in the folder.
    """
    path = Path(os.path.realpath(path.parent)) / path.name
    if _held.get(path) == threading.get_ident():
        yield
        return
    descriptor, ended = _acquire(path), threading.Event()
    _held[path] = threading.get_ident()
    renewing = threading.Thread(target=_renew, args=(path, ended), name="lock", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        del _held[path]
        _release(path, descriptor)


def _acquire(path: Path) -> int:
    """Open and lock the file, and write into it who holds it; returns its descriptor."""
    while True:
        descriptor = _open(path)
        is_locked = _lock(descriptor)
        if not _is_file(path, descriptor):  # its holder deleted it between opening and locking
            os.close(descriptor)
            continue
        holder = _read(descriptor)
        if is_locked is False or _may_be_alive(holder, path, bool(is_locked)):
            os.close(descriptor)
            raise LockedError(_in_use(path, holder))
        try:
            with naming_full_disk(path):
                _write(descriptor)
        except BaseException:
            _release(path, descriptor)
            raise
        return descriptor


def _open(path: Path) -> int:
    # A link in a folder of others would lead to a file elsewhere, which the lock would overwrite; a pipe would wait.
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    strange = FileError(
        f"{path}: expected the file of a lock, found a link, a folder or a file of another kind. Delete it"
    )
    if path.is_symlink() or path.is_dir():
        raise strange
    try:
        with naming_full_disk(path):
            descriptor = os.open(path, flags, 0o666)
    except DiskFullError:
        raise
    except OSError as error:
        raise unwritable(path.parent, error) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise strange
    return descriptor


def _lock(descriptor: int) -> bool | None:
    """Whether the operating system gave this process the lock; None if the file system has no locks."""
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, UNREAD, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in BUSY else None
    return True


def _is_file(path: Path, descriptor: int) -> bool:
    """Whether the path still leads to the file that is open."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _release(path: Path, descriptor: int) -> None:
    """Delete the file while it is locked, so that nobody locks a file that is gone; Windows closes it first."""
    if sys.platform == "win32":
        os.close(descriptor)
    with suppress(OSError):
        path.unlink()
    if sys.platform != "win32":
        os.close(descriptor)


def _renew(path: Path, ended: threading.Event) -> None:
    while not ended.wait(RENEWED_EVERY):
        with suppress(OSError):
            os.utime(path)


def _write(descriptor: int) -> None:
    holder = {
        "host": platform.node(),
        "pid": os.getpid(),
        "started": process_start(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200],
    }
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(holder).encode())
    os.fsync(descriptor)


def _read(descriptor: int) -> dict[str, Any]:
    """The holder that is written in the file; empty if there is none, or it is not whole."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        holder = json.loads(os.read(descriptor, 1 << 16).decode())
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _may_be_alive(holder: Mapping[str, Any], path: Path, is_locked: bool) -> bool:
    """Whether the holder may still work, though the operating system does not say so.

    Args:
        holder: the holder, as written in the file.
        path: the file.
        is_locked: whether the operating system has given the lock to this process.
    """
    if not holder:
        return False
    if holder.get("host") == platform.node():
        if is_locked:  # locks hold between all processes of a machine
            return False
        pid, started = holder.get("pid"), holder.get("started")
        if isinstance(pid, int) and started is not None:
            return process_start(pid) == started
    with tempfile.TemporaryFile(dir=path.parent) as file:
        now = os.fstat(file.fileno()).st_mtime  # the present time by the clock of the file system
    return now - path.stat().st_mtime < STALE


def _in_use(path: Path, holder: Mapping[str, Any]) -> str:
    pid, host, command, since = (holder.get(name) for name in ("pid", "host", "command", "since"))
    who = f"process {pid} on {host} ({command}, since {since})" if holder else "another process"
    message = f"{path.parent}: expected a folder that nobody is working in, but {who} is. "
    message += "Wait for its end, or stop it; nothing was changed."
    if host in (None, platform.node()):
        return message
    return message + f" If it is gone, this is noticed after {STALE:.0f} seconds."


def process_start(pid: int) -> int | None:
    """When a process started, in clock ticks since the boot; None if there is no such process, or no Linux's /proc.

    With its number it names a process for good, since numbers are given again.
    """
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
