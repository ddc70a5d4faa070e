"""Texts of unknown origin inside Markdown, where they must not become headings, links, tables or HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pyro_compvae.visible import visible

LIST = re.compile(r"^(\d*)([-+.)])(?=\s|$|-)")
"""The beginning of an item of a list, or a rule, where a line begins with the text."""


class Markdown(str):
    """A text that is Markdown already."""

    __slots__ = ()


def line(value: object) -> object:
    """A text as part of a line, in which no character has a meaning; Markdown and what is no text stay as they are.

    >>> print(line("## a_b [here](http://a) <b>"))
    \\#\\# a\\_b \\[here\\](http://a) \\<b\\>
    """
    if isinstance(value, Markdown) or not isinstance(value, str):
        return value
    text = re.sub(r"[\\`*_\[\]<>|~$#&]", r"\\\g<0>", _one_line(value))
    return Markdown(LIST.sub(r"\1\\\2", text))


def code(value: str) -> Markdown:
    """A text as code within a line, or within a cell of a table."""
    text = _one_line(value).replace("|", "\\|") or " "
    ticks = _fence(text, 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return Markdown(f"{ticks}{space}{text}{space}{ticks}")


def block(lines: Sequence[str]) -> Markdown:
    """Lines as a block of code."""
    text = "\n".join(map(_one_line, lines))
    ticks = _fence(text, 3)
    return Markdown(f"{ticks}\n{text}\n{ticks}")


def _one_line(text: str) -> str:
    return visible(" ".join(text.split()), "")


def _fence(text: str, least: int) -> str:
    """More backticks than the text has in a row."""
    return "`" * max([least, *(len(run) + 1 for run in re.findall("`+", text))])
