"""Export of trained runs for sharing."""
