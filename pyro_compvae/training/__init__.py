"""Stochastic variational inference: the loop, a step of it, its schedules, and workers that share it."""
