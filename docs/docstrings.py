"""Conversion of this project's docstrings to the markup of Sphinx.

Formulae stand in indented paragraphs, fields as ``name: what`` below one another, and | and (*batch, N) mean what they
say.
"""

from __future__ import annotations

import re
from itertools import groupby

LITERAL_OR_CODE = re.compile(r"(``.*?``|`[^`]*`)")
SPECIAL = re.compile(r"\||\*(?=\w+[,)])|(?<=\w)_(?!\w)|(?<=: )(?=[A-Z]\.$)")
"""Text that would be markup: a substitution, emphasis, a reference, and "K.", which would begin a list."""
FIELD = re.compile(r"([a-z]\w*(?:, \w+)*): +(?=\S)")


def to_restructured_text(lines: list[str]) -> list[str]:
    """The lines of a docstring in reStructuredText; sections such as "Args:" are left to napoleon."""
    text: list[str] = []
    within_section = False
    for blank, group in groupby(lines, key=lambda line: not line.strip()):
        paragraph = list(group)
        if blank:
            text += paragraph
        elif paragraph[0].startswith(" "):
            # Below a section's head it belongs to the section; otherwise it is a formula.
            text += _escaped(paragraph) if within_section else [".. code-block:: text", "", *paragraph]
        elif paragraph[0].startswith(">>> "):
            text += paragraph
        else:
            within_section = re.fullmatch(r"[A-Z]\w+:", paragraph[0]) is not None
            text += _escaped(paragraph) if within_section else _with_fields_listed(_escaped(paragraph))
    return text


def _with_fields_listed(paragraph: list[str]) -> list[str]:
    """Lines ``name: what`` and their indented continuations as items of a list."""
    start = next((i for i, line in enumerate(paragraph) if FIELD.match(line)), len(paragraph))
    fields = paragraph[start:]
    follows = start == 0 or paragraph[start - 1].endswith(":")
    if not fields or not follows or not all(line.startswith(" ") or FIELD.match(line) for line in fields):
        return paragraph
    items = [line if line.startswith(" ") else FIELD.sub(r"*   **\1**: ", line, count=1) for line in fields]
    return [*paragraph[:start], *([""] if start else []), *items]


def _escaped(lines: list[str]) -> list[str]:
    """The text with characters escaped that would be markup, except in backticks."""
    return [
        "".join(
            part if part.startswith("`") else SPECIAL.sub(lambda match: "\\" + match[0], part)
            for part in LITERAL_OR_CODE.split(line)
        )
        for line in lines
    ]
