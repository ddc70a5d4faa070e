"""Two processes never write into one run folder, and a killed one does not block it."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyro_compvae.errors import FileError
from pyro_compvae.runs import lock
from pyro_compvae.runs.files import check_writable, write_text
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.lock import LockedError, locked, process_start

HOLD = """
import importlib.util, sys, types
for name in ("pyro_compvae", "pyro_compvae.runs"):  # without torch
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [sys.argv[1] + "/" + name.replace(".", "/")]
from pathlib import Path
from pyro_compvae.runs.lock import locked
with locked(Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the lock."""
    command = [sys.executable, "-c", HOLD, str(Path(__file__).parents[3]), str(tmp_path / ".lock")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_another_process_is_named_and_its_end_is_noticed(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    message = rf"{tmp_path}: expected a folder that nobody is working in, but process {other.pid} on .* since 20.* is\."
    with pytest.raises(LockedError, match=message), locked(tmp_path / ".lock"):
        pass
    other.kill()
    other.wait()
    assert (tmp_path / ".lock").exists(), "it was killed"
    with locked(tmp_path / ".lock"):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_another_process_lets_go(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.communicate("")
    assert list(tmp_path.iterdir()) == []


def test_the_holder_may_enter_again_and_other_threads_may_not(tmp_path: Path) -> None:
    refused: list[LockedError] = []

    def enter() -> None:
        try:
            with folder.alone():
                pass
        except LockedError as error:
            refused.append(error)

    folder = RunFolder(tmp_path / "run")
    with folder.alone(), folder.alone():
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert not folder.path.exists(), "nothing was put into it"


def left_by(path: Path, age: float, **holder: Any) -> None:
    path.write_text(json.dumps({"host": platform.node(), "pid": 1, "command": "x", "since": "today"} | holder))
    os.utime(path, (time.time() - age,) * 2)


def test_a_file_of_another_machine_counts_while_it_is_renewed(tmp_path: Path) -> None:
    """The operating system gives the lock, as network file systems do whose locks are for one machine."""
    path = tmp_path / ".lock"
    left_by(path, 60, host="elsewhere", started=1)
    with pytest.raises(
        LockedError, match=r"process 1 on elsewhere .* If it is gone, this is noticed after 180 seconds"
    ):
        lock._acquire(path)
    left_by(path, 200, host="elsewhere", started=1)
    with locked(path):
        assert path.stat().st_mtime > time.time() - 60
    left_by(path, 0, host=platform.node(), started=1)
    with locked(path):
        pass
    path.write_text("{")
    with locked(path):
        pass


def test_a_holder_renews_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "RENEWED_EVERY", 0.01)
    with locked(tmp_path / ".lock"):
        os.utime(tmp_path / ".lock", (0, 0))
        until = time.monotonic() + 10
        while (tmp_path / ".lock").stat().st_mtime == 0:
            assert time.monotonic() < until
            time.sleep(0.01)


@pytest.mark.skipif(process_start(os.getpid()) is None, reason="there is no /proc")
def test_without_locks_of_the_system_holders_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    path, parent = tmp_path / ".lock", os.getppid()
    left_by(path, 1e6, pid=parent, started=process_start(parent))
    with pytest.raises(LockedError, match=f"process {parent} on {platform.node()}"):
        lock._acquire(path)
    left_by(path, 0, pid=parent, started=1)  # its number was given again
    with locked(path):
        pass
    left_by(path, 60, pid=parent, started=None)  # no /proc there
    with pytest.raises(LockedError):
        lock._acquire(path)
    left_by(path, 200, pid=parent, started=None)
    with locked(path):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*arguments: Any) -> int:
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path))

    monkeypatch.setattr(os, "open", read_only)
    with (
        pytest.raises(FileError, match=r"cannot be \(Read-only file system\).* copy it and use the copy"),
        locked(tmp_path / ".lock"),
    ):
        pass
    with pytest.raises(FileError, match=r"cannot be \(Read-only file system\).* copy it and use the copy"):
        check_writable(tmp_path)
    with pytest.raises(OSError, match="Read-only") as caught:
        write_text(tmp_path / "report.html", "")
    assert caught.value.filename == f"{tmp_path}/report.html"


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder"])
def test_files_that_others_have_put_in_its_place_are_not_written(tmp_path: Path, kind: str) -> None:
    mine, path = tmp_path / "mine.txt", tmp_path / "run" / ".lock"
    mine.write_text("mine")
    path.parent.mkdir()
    if kind == "link":
        path.symlink_to(mine)
    elif kind == "hard link":
        path.hardlink_to(mine)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(FileError, match=r"\.lock: expected the file of a lock, found a link"), locked(path):
        pass
    assert mine.read_text() == "mine"


def test_a_thread_enters_its_lock_again_by_another_path(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with locked(tmp_path / "run" / ".lock"), locked(tmp_path / "link" / ".lock"):
        pass


def test_links_in_a_folder_of_others_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "figures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileError, match="figures: expected a folder of the run, found a link to elsewhere"):
        RunFolder(tmp_path / "run").figure("khat.png")
