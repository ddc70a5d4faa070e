"""Ctrl-C and SIGTERM, heeded when it suits."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_signals(second_interrupts: bool = True) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them.

    Args:
        second_interrupts: whether a second Ctrl-C raises KeyboardInterrupt at once.
    """
    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if second_interrupts and received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
