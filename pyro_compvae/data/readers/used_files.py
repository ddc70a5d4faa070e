"""Sentences that say which files of a source were used, and which were not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from pyro_compvae.visible import visible

NAMED = 5
"""How many of the files that are left out for the same reason are named."""


@dataclass
class LeftOut:
    """The files of a folder that are not used, by reason.

    root: the folder.
    files: their paths in the folder.
    """

    root: Path
    files: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, reason: str, *paths: PurePath) -> None:
        """Leave files out for a reason, which follows their number in the sentence."""
        self.files[reason] += [visible(path.relative_to(self.root).as_posix(), "") for path in paths]

    def note(self) -> str:
        """The sentence, which says that nothing was left out if nothing was."""
        reasons = [f"{len(names):,} {reason} ({_some(names)})" for reason, names in self.files.items() if names]
        return f"left out: {'; '.join(reasons) or 'nothing'}"


def used_note(what: str, paths: Iterable[PurePath]) -> str:
    """The sentence on the files that are used, with the numbers of their types."""
    kinds = Counter(path.suffix.lower() for path in paths)
    counts = ", ".join(f"{count:,} {visible(kind, '')}" for kind, count in sorted(kinds.items()))
    return f"used: {sum(kinds.values()):,} {what} ({counts})"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
