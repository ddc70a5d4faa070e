"""Stochastic variational inference: the training loop, its steps and schedules, and the workers that share it."""
