"""Distributions to draw the slots of a batch of scenes from."""
