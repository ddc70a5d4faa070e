"""Text files of run folders, which strangers may have written: read if they are small, regular, and in their folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pyro_compvae.runs.files import check_opens

MAX_TEXT = 64 << 20
"""The largest text file, in bytes; the log of 600,000 steps has four million."""


def check_text(path: Path, inside: Path, error: type[Exception]) -> None:
    """Refuse a file that a page or an export must not show, before any of it is read.

    Args:
        path: the file.
        inside: the folder that has to hold it, so that a link cannot show what the run did not write.
        error: the kind of error to raise.

    Raises:
        error: if the file is missing or no regular file, is a link out of the folder, cannot be opened, or is large.
    """
    if not path.is_file():
        raise error(f"{path}: expected a text file, found none")
    check_opens(path, error)
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(inside)):
        raise error(f"{path}: expected a file of its folder, got a link to elsewhere. Put the file itself there.")
    if path.stat().st_size > MAX_TEXT:
        raise error(f"{path}: expected at most {MAX_TEXT >> 20} MiB of text, got {path.stat().st_size >> 20} MiB")


def read_text(path: Path, inside: Path, error: type[Exception]) -> str:
    """Read a text file that `check_text` does not refuse.

    Raises:
        error: as for `check_text`, and if it is not UTF-8.
    """
    check_text(path, inside, error)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise error(f"{path}: expected text in UTF-8, got other bytes ({problem})") from problem


def read_json(path: Path, inside: Path, error: type[Exception]) -> Any:
    """Read a file of JSON that `check_text` does not refuse.

    Raises:
        error: as for `read_text`, and if it is not JSON, or nested too deeply.
    """
    text = read_text(path, inside, error)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise error(f"{path}: expected JSON, but it cannot be read ({problem})") from problem
