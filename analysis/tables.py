"""Tables for terminals and for pages."""

from __future__ import annotations

import csv
import io
import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyro_compvae.errors import ArgumentError


def csv_text(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The text of a CSV file with rows of values under their heads; NaN becomes an empty cell."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(heads)
    for row in rows:
        table.writerow(["" if isinstance(value, float) and math.isnan(value) else value for value in row])
    return text.getvalue()


@dataclass(frozen=True)
class Table:
    """Rows of cells under their heads, where the first cell names the row. As a string, columns are aligned.

    Raises:
        ValueError: if a row has more or fewer cells than there are heads.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.heads):
                raise ArgumentError(f"rows: expected {len(self.heads)} cells, as there are heads, got {row}")

    def __str__(self) -> str:
        lines = (self.heads, *self.rows)
        widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]

        def padded(cell: str, width: int, first: bool) -> str:
            space = " " * (width - _width(cell))
            return cell + space if first else f"  {space}{cell}"

        return "\n".join(
            "".join(
                padded(cell, width, i == 0) for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )


def _width(cell: str) -> int:
    """The number of columns that a cell takes in a terminal: the hat of k̂ takes none."""
    return sum(not unicodedata.combining(character) for character in cell)
