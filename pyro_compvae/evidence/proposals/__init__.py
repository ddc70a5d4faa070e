"""Distributions from which the slots of a batch of scenes are drawn."""
