"""Comparisons of two kinds of runs, image by image."""
