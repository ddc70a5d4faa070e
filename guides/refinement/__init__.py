"""Iterative refinement, which IODINE and MulMON share."""
