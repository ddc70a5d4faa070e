"""Children end when their parent is gone, even by kill -9."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyro_compvae.orphans import LAUNCHER, PARENT

ORPHANS = Path(__file__).parents[2] / "pyro_compvae" / "orphans.py"

CHILD = """
import runpy, sys, time
orphans = runpy.run_path(sys.argv[1])
orphans["end_with_parent"].__globals__["CHECKED_EVERY"] = 0.01
orphans["end_with_parent"]()
print("watching", flush=True)
time.sleep(60)
"""

PARENT_OF_CHILD = """
import os, runpy, subprocess, sys, time
orphans = runpy.run_path(sys.argv[1])
environment = orphans["child_environment"]() if sys.argv[2] == "child" else dict(os.environ)
child = subprocess.Popen([sys.executable, "-c", sys.argv[3], sys.argv[1]], env=environment)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a process does not learn of the end of its parent")
@pytest.mark.parametrize("kind", ["child", "worker", "in the background"])
def test_children_end_with_their_parent(kind: str) -> None:
    """So do those of reproduce.py, and workers of torchrun, but not a run that a shell began in the background."""
    environment = {name: value for name, value in os.environ.items() if name not in (PARENT, LAUNCHER)}
    environment |= {LAUNCHER: "none"} if kind == "worker" else {}
    command = [sys.executable, "-c", PARENT_OF_CHILD, str(ORPHANS), kind, CHILD]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert parent.stdout.readline() == "watching\n"
    assert is_running(pid)
    parent.kill()
    parent.wait()
    if kind == "in the background":
        time.sleep(0.3)
        assert is_running(pid)
        os.kill(pid, 9)
    until = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < until, "it lives on"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether there is such a process that has not ended; one that nobody has waited for has."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")
