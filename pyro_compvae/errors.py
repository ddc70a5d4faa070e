"""Errors that a user causes and can correct."""

from __future__ import annotations


class CompvaeError(Exception):
    """A request cannot be met; the message says what was expected, what came, and what to do.

    Commands print it as one line. Every other exception is a fault of the program and keeps its traceback. Each
    subclass is also the built-in exception that Python programmers expect in its case.
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
    """The disk has no room for a file."""
