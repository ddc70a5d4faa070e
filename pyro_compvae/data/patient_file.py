"""A file for libraries that crash if writing fails."""

from __future__ import annotations

import io
from typing import Any


class PatientFile(io.FileIO):
    """A file that keeps errors until `check` raises them.

    If HDF5 finds a disk full, it cannot close its file and crashes the process. So it is never told of errors.
    """

    error: BaseException | None = None

    def write(self, content: Any) -> int:
        """Write all of the content, or keep the error."""
        rest = memoryview(content).cast("B")
        size = len(rest)
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except BaseException as error:
            self.error = self.error or error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Change the size, or keep the error."""
        try:
            return super().truncate(size)
        except BaseException as error:
            self.error = self.error or error
            return size or 0

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self.error is not None:
            raise self.error
