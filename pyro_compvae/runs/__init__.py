"""Runs: their folders, configurations, checkpoints, weights, environments and logs."""
