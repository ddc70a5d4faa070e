"""Posterior draws for ArviZ, and what can be said of them."""
