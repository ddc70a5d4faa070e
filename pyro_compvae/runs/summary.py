"""The summary of a finished run: the metrics on all test scenes, and what they are of."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pyro_compvae.errors import CompvaeError
from pyro_compvae.runs.reading import read_json

TEXTS = ("guide", "dataset", "preset", "device")
COUNTS = ("steps", "num_test_scenes", "seconds")
"""The entries that are texts, and those that are numbers in every summary. All others are numbers, or None where a
metric is not defined, or numbers by name; splits are texts by name, their digests texts by name and field, and lnms is
a truth value."""


class SummaryError(CompvaeError, ValueError):
    """A summary is damaged, or holds something else than a summary does."""


def read_summary(path: Path) -> dict[str, Any]:
    """Read a summary.json.

    Raises:
        SummaryError: if the file is missing, is no JSON, or has an entry of another kind than a summary has.
    """
    content = read_json(path, path.parent, SummaryError)
    if not isinstance(content, dict):
        raise SummaryError(f"{path}: expected the metrics of a run by name, got {type(content).__name__}")
    for name, value in content.items():
        if not _is_sound(name, value):
            raise SummaryError(f"{path}: expected the metrics of a run, got {str(value)[:40]!r} as {name[:40]!r}")
    return content


def _is_sound(name: str, value: Any) -> bool:
    if name in TEXTS:
        return isinstance(value, str)
    if name == "splits":
        return _are_texts(value)
    if name == "digests":
        return isinstance(value, dict) and all(map(_are_texts, value.values()))
    if name in COUNTS:
        return _is_number(value)
    inner = value.values() if isinstance(value, dict) else (value,)
    return all(number is None or _is_number(number) for number in inner)


def _are_texts(value: Any) -> bool:
    """Whether a value is texts by name."""
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_number(value: Any) -> bool:
    """Whether a value is a number that a float can hold, NaN included."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= sys.float_info.max)
