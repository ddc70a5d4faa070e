"""Simulation-based calibration of a guide's posterior."""
