"""Analysis of trained models: decomposition metrics, health, figures, run folders."""

from analysis.duplicates import DuplicateScore, active_slots, duplicate_score
from analysis.evaluation import Decomposition, decompose, evaluate, infer, query_mse_by_views, scene_metrics
from analysis.export import export_run
from analysis.figures import decomposition_figure, traversal_figure, views_figure
from analysis.inference_data import save_inference_data, to_inference_data
from analysis.nuts import nuts_draws
from analysis.posterior_draws import Draws, guide_draws, importance_draws, weighted_draws
from analysis.runs import Run, load_run
from analysis.segmentation import adjusted_rand_index, mean_iou, mean_squared_error
from analysis.slot_alignment import align_slots

__all__ = [
    "Decomposition",
    "Draws",
    "DuplicateScore",
    "Run",
    "active_slots",
    "adjusted_rand_index",
    "align_slots",
    "decompose",
    "decomposition_figure",
    "duplicate_score",
    "evaluate",
    "export_run",
    "guide_draws",
    "importance_draws",
    "infer",
    "load_run",
    "mean_iou",
    "mean_squared_error",
    "nuts_draws",
    "query_mse_by_views",
    "save_inference_data",
    "scene_metrics",
    "to_inference_data",
    "traversal_figure",
    "views_figure",
    "weighted_draws",
]
