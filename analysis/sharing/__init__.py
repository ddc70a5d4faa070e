"""Trained runs, made fit to be shared."""
