"""Amortised posteriors as Pyro guides."""

from guides.build import build_guide
from guides.iodine import IodineGuide
from guides.monet import MonetGuide
from guides.mulmon import MulmonGuide

__all__ = ["IodineGuide", "MonetGuide", "MulmonGuide", "build_guide"]
