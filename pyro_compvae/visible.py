"""Text of unknown origin on a terminal: what would move the cursor, change colours or hide is written as escapes."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode's categories of control, format, surrogate, private and unassigned characters, and of ends of lines."""

CURSOR_UP = "\x1b[A"
"""What a progress bar writes when it has drawn below another one."""


def visible(text: str, kept: str = "\n") -> str:
    r"""A text in which hidden characters, except those that are kept, are written as in Python.

    >>> visible("run\x1b[2J k̂")
    'run\\x1b[2J k̂'
    """
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if character not in kept and unicodedata.category(character) in HIDDEN
        else character
        for character in text
    )


class _VisibleStream:
    """A text stream that makes all it writes visible, except what progress bars need on standard error."""

    def __init__(self, stream: TextIO, has_bars: bool) -> None:
        self.stream = stream
        self.has_bars = has_bars

    def write(self, text: str) -> int:
        """Write a text; returns its length."""
        if self.has_bars:
            text = CURSOR_UP.join(visible(part, "\n\r") for part in text.split(CURSOR_UP))
        else:
            text = visible(text)
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def visible_output() -> Iterator[None]:
    """A context in which nothing that is printed can do more to a terminal than show characters."""
    out, err = (cast(TextIO, _VisibleStream(*pair)) for pair in ((sys.stdout, False), (sys.stderr, True)))
    with redirect_stdout(out), redirect_stderr(err):
        yield
