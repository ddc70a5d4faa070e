"""Analysis of trained models: how well slots segment scenes and how often two slots hold the same thing."""

from analysis.duplicates import DuplicateScore, active_slots, duplicate_score
from analysis.segmentation import adjusted_rand_index, mean_iou, mean_squared_error

__all__ = [
    "DuplicateScore",
    "active_slots",
    "adjusted_rand_index",
    "duplicate_score",
    "mean_iou",
    "mean_squared_error",
]
