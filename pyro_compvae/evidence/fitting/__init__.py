"""Proposals fitted to the posterior of every scene."""
