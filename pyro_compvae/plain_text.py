"""Output in encodings that lack our signs, such as ASCII in a bare container and cp1252 in a Windows pipe."""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata

SIGNS = {
    **{"−": "-", "–": "-", "—": "-", "‖": "||", "·": "*", "×": "x", "±": "+-", "→": "->", "←": "<-", "↑": "^"},
    **{"≥": ">=", "≤": "<=", "≈": "~", "√": "sqrt ", "∞": "inf", "…": "...", "∼": "~", "\u0302": "-hat", "⁺": "+"},
    **{"’": "'", "‘": "'", "“": '"', "”": '"', "█": "#", "▏": "|"},
}
"""What is written in place of a sign."""


def _in_plain_text(error: UnicodeError) -> tuple[str, int]:
    """The handler of characters that cannot be encoded: their plain form, the name of a Greek letter, or "?"."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file's name that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    plain = SIGNS.get(character) or unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    name = unicodedata.name(character, "")
    if not plain and name.startswith("GREEK"):
        return name.split()[-1].lower() if "SMALL" in name else name.split()[-1].capitalize()
    return plain or "?"


codecs.register_error("plain text", _in_plain_text)


def write_what_can_be_encoded() -> None:
    """From now on standard output and error write plain text for characters that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook or a test may have put something else there
            stream.reconfigure(errors="plain text")
