"""Analysis of trained models: decomposition metrics, health, figures, run folders."""

from analysis.duplicates import DuplicateScore, active_slots, duplicate_score
from analysis.evaluation import Decomposition, decompose, evaluate, scene_metrics
from analysis.figures import decomposition_figure
from analysis.runs import Run, load_run
from analysis.segmentation import adjusted_rand_index, mean_iou, mean_squared_error

__all__ = [
    "Decomposition",
    "DuplicateScore",
    "Run",
    "active_slots",
    "adjusted_rand_index",
    "decompose",
    "decomposition_figure",
    "duplicate_score",
    "evaluate",
    "load_run",
    "mean_iou",
    "mean_squared_error",
    "scene_metrics",
]
