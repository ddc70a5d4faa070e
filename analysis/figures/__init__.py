"""Figures of decompositions and of training."""
