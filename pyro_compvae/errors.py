"""Errors that a user causes and can mend."""

from __future__ import annotations


class CompvaeError(Exception):
    """Something was asked for that cannot be: the message says what was expected, what came, and what to do.

    Commands print it as one line. Every other exception is a fault of the program and keeps its traceback. Each kind is
    also the built-in exception that Python programmers expect there.
    """


class ArgumentError(CompvaeError, ValueError):
    """An argument has a type, shape or value that the function does not take."""


class ConfigError(CompvaeError, ValueError):
    """A configuration has an unknown field, a wrong type or an impossible value."""


class NotFiniteError(CompvaeError, FloatingPointError):
    """A density or a gradient is NaN or infinite where it must not be."""


class FileError(CompvaeError, OSError):
    """A file cannot be read or written."""


class DiskFullError(FileError):
    """There is no room for a file."""
