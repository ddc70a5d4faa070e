"""What a report begins with: verdicts, and headline numbers; and the list of what has not been computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyro_compvae.analysis.report.blocks import Headline, Section, Verdict
from pyro_compvae.analysis.report.folders import NotComputed, ReportedRun


@dataclass(frozen=True)
class Sentence:
    """A verdict, with the section that it is from and the run that it is on."""

    section: Section
    name: str
    text: str


@dataclass(frozen=True)
class Beginning:
    """The verdicts of all sections; for every headline number one value per run, or None; and what was left out."""

    verdicts: Sequence[Sentence]
    rows: Sequence[tuple[str, Sequence[Headline | None]]]
    left_out: Sequence[Section]


@dataclass(frozen=True)
class Unfinished:
    """What one command would compute, or what no command can: the titles of sections, and what is missing in them.

    Titles and reasons are the keys of dictionaries, which keep their order, and each once.
    """

    command: str
    name: str
    titles: dict[str, None]
    reasons: dict[str, None]


def beginning(folders: Sequence[ReportedRun], sections: Sequence[Section]) -> Beginning:
    """Collect verdicts and headline numbers from sections."""
    verdicts = [
        Sentence(section, part.name, verdict.text)
        for section in sections
        for part in section.parts
        for verdict in part.of_kind(Verdict)
    ]
    values: dict[str, dict[str, Headline]] = {}
    for part in (part for section in sections for part in section.parts):
        for headline in part.of_kind(Headline):
            values.setdefault(headline.name, {})[part.name] = headline
    rows = [(name, [found.get(reported.name) for reported in folders]) for name, found in values.items()]
    left_out = [section for section in sections if any(part.left_out for part in section.parts)]
    return Beginning(verdicts, rows, left_out)


def not_computed(sections: Sequence[Section]) -> list[Unfinished]:
    """The commands that compute what is missing, each once, with what they are for; then what no command computes."""
    found: dict[tuple[str, str], Unfinished] = {}
    for section in sections:
        for part in section.parts:
            for reason in (reason for reason in part.missing if isinstance(reason, NotComputed)):
                key = (reason.command, "" if reason.command else part.name)
                item = found.setdefault(key, Unfinished(*key, {}, {}))
                item.titles[section.title] = item.reasons[reason.why] = None
    return sorted(found.values(), key=lambda item: not item.command)
