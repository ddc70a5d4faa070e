"""The gap between a guide's ELBO and log p(x), in named parts."""
