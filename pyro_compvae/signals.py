"""Ctrl-C and SIGTERM, recorded for the program to act on at the next good moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_signals(second_interrupts: bool = True) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of letting them end the program; the list of those received is yielded.

    Python hands signals to the main thread alone, so in another thread nothing is collected.

    Args:
        second_interrupts: whether a second Ctrl-C raises KeyboardInterrupt at once.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

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
