"""What sections of a report are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pyro_compvae.analysis.report.folders import Missing, ReportedRun
from pyro_compvae.analysis.tables import Table


@dataclass(frozen=True)
class Picture:
    """An SVG, and what it shows for those who do not see it."""

    svg: str
    alt: str


@dataclass(frozen=True)
class Numbers:
    """A table with its caption, and notes under it. Cells are taken for numbers, but for the first of each row."""

    caption: str
    table: Table
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Text:
    """Text as it is: a table of a terminal, a configuration, commands."""

    caption: str
    text: str
    folded: bool = False


@dataclass(frozen=True)
class Scenes:
    """Scenes of the decompositions to go to, counted from 0."""

    caption: str
    scenes: Sequence[int]


@dataclass(frozen=True)
class Part:
    """What a section says of one run, or of all where it has no name."""

    name: str = ""
    blocks: Sequence[Picture | Numbers | Text | Scenes] = ()
    missing: Sequence[Missing] = ()


@dataclass(frozen=True)
class Section:
    """A heading, what the section is about, and its parts side by side."""

    key: str
    title: str
    lead: str
    parts: Sequence[Part] = field(default_factory=tuple)


Block = Picture | Numbers | Text | Scenes

Show = Callable[[ReportedRun], Sequence[Block]]
"""What to show of a run; raises `Missing` where there is nothing."""


def part_of(folder: ReportedRun, *shows: Show) -> Part:
    """Everything there is to show of a run, and everything that is missing."""
    blocks: list[Block] = []
    missing: list[Missing] = []
    for show in shows:
        try:
            blocks += show(folder)
        except Missing as reason:
            missing.append(reason)
        # Files that do not fit together, of other settings or by other hands, must not cost the rest of the page.
        except Exception as error:
            missing.append(Missing(f"{show.__doc__} cannot be shown: {error!r}."))
    return Part(folder.name, blocks, missing)
