"""Readers of other people's files, which open them with care."""
