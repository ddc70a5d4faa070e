"""Processes that end when the one that started them is gone, even if it was killed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

PARENT = "COMPVAE_PARENT"
"""The environment variable with the number of the process with which its children end."""

LAUNCHER = "TORCHELASTIC_RUN_ID"
"""The environment variable that ``torchrun`` sets for its workers."""

CHECKED_EVERY = 1.0
"""How often a child looks for its parent, in seconds."""


def child_environment() -> dict[str, str]:
    """The environment of a child that is to end with this process."""
    return {**os.environ, PARENT: str(os.getpid())}


def end_with_parent() -> None:
    """From now on send this process SIGTERM if its parent ends, if it has one that asks for this, or is a worker.

    In training, SIGTERM saves the run. On Windows a process does not learn of the end of its parent.
    """
    expected = os.environ.pop(PARENT, None)  # children of this process have another parent
    parent = os.getppid()
    if sys.platform == "win32" or (expected is None and LAUNCHER not in os.environ):
        return
    if expected is not None:
        parent = int(expected)
    threading.Thread(target=_watch, args=(parent,), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(CHECKED_EVERY)
    os.kill(os.getpid(), signal.SIGTERM)
