"""The building blocks of a report's sections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pyro_compvae.analysis.report.folders import Missing, NotComputed, ReportedRun
from pyro_compvae.analysis.tables import Table

B = TypeVar("B")


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
    """Links to scenes among the decompositions, counted from 1."""

    caption: str
    scenes: Sequence[int]


@dataclass(frozen=True)
class Verdict:
    """A sentence on what a study found. The page begins with those of all studies."""

    text: str


@dataclass(frozen=True)
class Headline:
    """A number of a run with which the page begins: its name, its value, and which scenes it is of."""

    name: str
    value: str
    of: str


Block = Picture | Numbers | Text | Scenes | Verdict | Headline


@dataclass(frozen=True)
class Part:
    """The part of a section on one run, or on all runs if it has no name; ``of`` says of which step or scenes it is."""

    name: str = ""
    blocks: Sequence[Block] = ()
    missing: Sequence[Missing] = ()
    of: str = ""

    @property
    def shown(self) -> list[Block]:
        """The blocks that stand in the section itself."""
        return [block for block in self.blocks if not isinstance(block, Headline)]

    @property
    def left_out(self) -> list[Missing]:
        """What is there and cannot be shown; what has not been computed is in a list of its own."""
        return [reason for reason in self.missing if not isinstance(reason, NotComputed)]

    def of_kind(self, kind: type[B]) -> list[B]:
        """The blocks of one kind."""
        return [block for block in self.blocks if isinstance(block, kind)]


@dataclass(frozen=True)
class Section:
    """A section with a heading, a sentence on its subject, and its parts one below the other."""

    key: str
    title: str
    lead: str
    parts: Sequence[Part] = field(default_factory=tuple)

    @property
    def shown(self) -> bool:
        """Whether there is anything to say in it."""
        return any(part.shown or part.left_out for part in self.parts)


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
    return Part(folder.name, blocks, missing, folder.at_step)
