"""From a proposal to the posterior by way of everything between: annealed importance sampling."""
