"""A file compressed by zlib, which the standard library opens only in memory."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

BLOCK = 1 << 16
"""How many compressed bytes are read at a time."""


def is_zlib(start: bytes) -> bool:
    """Whether the first bytes of a file are those of a zlib stream (RFC 1950, section 2.2)."""
    return (
        len(start) >= 2 and start[0] & 0x0F == 8 and start[0] >> 4 <= 7 and int.from_bytes(start[:2], "big") % 31 == 0
    )


class ZlibFile(io.RawIOBase):
    """The content of a file that is one zlib stream, unpacked while it is read.

    Reading raises zlib.error if the stream is damaged, and EOFError if it ends too early, as gzip.open does.
    """

    def __init__(self, path: Path) -> None:
        self._file, self._stream = path.open("rb"), zlib.decompressobj()

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Unpack at most as many bytes as the buffer holds; returns their number, 0 at the end of the stream."""
        while len(buffer) and not self._stream.eof:  # a limit of 0 bytes would mean none
            packed = self._stream.unconsumed_tail or self._file.read(BLOCK)
            content = self._stream.decompress(packed, len(buffer))
            if content:
                buffer[: len(content)] = content
                return len(content)
            if not packed:
                raise EOFError("a compressed stream that ends too early")
        return 0

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
