"""Measurements of time, memory and arithmetic of training steps and of evidence estimates."""
