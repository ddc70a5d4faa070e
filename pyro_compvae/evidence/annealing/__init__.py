"""Annealed importance sampling, from a proposal to the posterior through the densities between them."""
