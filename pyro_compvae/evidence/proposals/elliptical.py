"""Gaussians and Student-t distributions with a Cholesky factor, cheap for many draws per batch element."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Elliptical:
    """Multivariate Student-t with ``df`` degrees of freedom; a Gaussian with df = ∞, the default.

        z = loc + scale_tril ε √(df / χ²_df),    ε ~ N(0, I)

    ``torch`` and ``pyro`` have both distributions, but solve a triangular system for every draw. This class computes
    the inverse of the factor once.

    Args:
        loc: the location, (*batch, N).
        scale_tril: the Cholesky factor, (*batch, N, N), lower triangular with a positive diagonal.
        df: degrees of freedom.
    """

    def __init__(self, loc: Tensor, scale_tril: Tensor, df: float = math.inf) -> None:
        self.loc = loc
        self.scale_tril = scale_tril
        self.df = df

    def rsample(self, num_samples: int) -> Tensor:
        """Draws (L, *batch, N), differentiable with respect to loc and scale_tril."""
        noise = torch.randn(num_samples, *self.loc.shape, dtype=self.loc.dtype, device=self.loc.device)
        if self.df < math.inf:
            chi2 = torch.distributions.Chi2(torch.full_like(self.loc[..., :1], self.df))
            noise = noise * (self.df / chi2.sample((num_samples,))).sqrt()
        return self.loc + torch.einsum("...ij,l...j->l...i", self.scale_tril, noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """The log-density of z (L, *batch, N), (L, *batch) in nats."""
        shift = torch.einsum("...ij,l...j->l...i", self.inverse(), z - self.loc)
        return self.log_prob_of_squares(shift.square().sum(-1))

    def inverse(self) -> Tensor:
        """The inverse of scale_tril, which makes the shifts z - loc of a Gaussian standard normal."""
        identity = torch.eye(self.loc.shape[-1], dtype=self.loc.dtype, device=self.loc.device)
        return torch.linalg.solve_triangular(self.scale_tril, identity.expand_as(self.scale_tril), upper=False)

    def log_prob_of_squares(self, squares: Tensor) -> Tensor:
        """The log-density where the standardised shift has this squared norm, (..., *batch) in nats."""
        N, df = self.loc.shape[-1], self.df
        log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        if df == math.inf:
            return -0.5 * squares - log_det - 0.5 * N * math.log(2 * math.pi)
        log_normaliser = math.lgamma(0.5 * (df + N)) - math.lgamma(0.5 * df) - 0.5 * N * math.log(df * math.pi)
        return log_normaliser - log_det - 0.5 * (df + N) * torch.log1p(squares / df)
