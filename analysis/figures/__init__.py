"""Pictures of decompositions and of training."""
