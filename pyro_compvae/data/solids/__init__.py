"""Multi-view scenes of solids on a ground plane, ray-cast on the spot."""
