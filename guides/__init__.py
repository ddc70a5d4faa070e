"""Amortised posteriors of scenes, as Pyro guides."""

from guides.build import build_guide
from guides.iodine import IodineGuide
from guides.refinement import RefinementNetwork

__all__ = ["IodineGuide", "RefinementNetwork", "build_guide"]
