"""Posterior draws for ArviZ, and their diagnosis."""
