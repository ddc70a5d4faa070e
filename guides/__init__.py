"""Amortised posteriors as Pyro guides."""

from pyro_compvae.guides.build import build_guide
from pyro_compvae.guides.iodine import IodineGuide
from pyro_compvae.guides.monet import MonetGuide
from pyro_compvae.guides.mulmon import MulmonGuide

__all__ = ["IodineGuide", "MonetGuide", "MulmonGuide", "build_guide"]
