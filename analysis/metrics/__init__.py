"""Metrics of how well a guide explains and decomposes scenes."""
