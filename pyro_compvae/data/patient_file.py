"""A file for libraries that do not survive a failure to write."""

from __future__ import annotations

import io
from typing import Any


class PatientFile(io.FileIO):
    """A file that keeps what fails for `check` to raise.

    Where HDF5 finds a disk full, it cannot close its file and takes the process down. So it is never told.
    """

    error: BaseException | None = None

    def write(self, content: Any) -> int:
        """Write all of the content, or keep why not."""
        rest = memoryview(content).cast("B")
        size = len(rest)
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except BaseException as error:
            self.error = self.error or error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Change the size, or keep why not."""
        try:
            return super().truncate(size)
        except BaseException as error:
            self.error = self.error or error
            return size or 0

    def check(self) -> None:
        """Raise what has failed first, if anything has."""
        if self.error is not None:
            raise self.error
