"""Two kinds of runs, image by image."""
