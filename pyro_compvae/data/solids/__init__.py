"""Multi-view scenes of solids on a ground plane, which are ray-cast on the spot."""
