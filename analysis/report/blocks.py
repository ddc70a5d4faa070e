"""The building blocks of a report's sections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pyro_compvae.analysis.report.folders import Missing, ReportedRun
from pyro_compvae.analysis.tables import Table


@dataclass(frozen=True)
class Picture:
    """An SVG, and a description of it for readers who do not see it."""

    svg: str
    alt: str


@dataclass(frozen=True)
class Numbers:
    """A table with a caption, and notes under it. All cells but the first of each row count as numbers."""

    caption: str
    table: Table
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Text:
    """Preformatted text, such as a table for terminals, a configuration, or commands."""

    caption: str
    text: str
    folded: bool = False


@dataclass(frozen=True)
class Scenes:
    """Links to scenes among the decompositions, counted from 0."""

    caption: str
    scenes: Sequence[int]


@dataclass(frozen=True)
class Part:
    """The part of a section on one run, or on all runs if it has no name."""

    name: str = ""
    blocks: Sequence[Picture | Numbers | Text | Scenes] = ()
    missing: Sequence[Missing] = ()


@dataclass(frozen=True)
class Section:
    """A section with a heading, a sentence on its subject, and its parts side by side."""

    key: str
    title: str
    lead: str
    parts: Sequence[Part] = field(default_factory=tuple)


Block = Picture | Numbers | Text | Scenes

Show = Callable[[ReportedRun], Sequence[Block]]
"""A function that returns what to show of a run, or raises `Missing` if there is nothing."""


def part_of(folder: ReportedRun, *shows: Show) -> Part:
    """Collect everything that can be shown of a run, and everything that is missing."""
    blocks: list[Block] = []
    missing: list[Missing] = []
    for show in shows:
        try:
            blocks += show(folder)
        except Missing as reason:
            missing.append(reason)
        # Files that do not fit together, because of other settings or later edits, must not break the rest of the page.
        except Exception as error:
            missing.append(Missing(f"{show.__doc__} cannot be shown: {error!r}."))
    return Part(folder.name, blocks, missing)
