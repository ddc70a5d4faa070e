"""Analysis of trained models: decomposition metrics, health, figures, run folders."""

from analysis.duplicates import DuplicateScore, active_slots, duplicate_score
from analysis.evaluation import Decomposition, decompose, evaluate, infer, query_mse_by_views, scene_metrics
from analysis.figures import decomposition_figure, traversal_figure, views_figure
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
    "infer",
    "load_run",
    "mean_iou",
    "mean_squared_error",
    "query_mse_by_views",
    "scene_metrics",
    "traversal_figure",
    "views_figure",
]
