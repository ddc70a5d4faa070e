"""What a run is and leaves behind: its folder, configuration, checkpoints, weights, environment and log."""
