"""Log-evidence of a run's scenes, by several estimators side by side."""
