"""Training, loading and analysis of runs, from decompositions to evidence and posteriors."""

from typing import TYPE_CHECKING

from pyro_compvae.lazy import lazy_attributes

if TYPE_CHECKING:
    from pyro_compvae.analysis.batches import Batches
    from pyro_compvae.analysis.calibration.compute import calibrate
    from pyro_compvae.analysis.comparison.compute import compare
    from pyro_compvae.analysis.evidence.compute import EvidenceConfig
    from pyro_compvae.analysis.evidence.data_set import estimate_evidence
    from pyro_compvae.analysis.figures.decompositions import decomposition_figure, traversal_figure, views_figure
    from pyro_compvae.analysis.ladder.compute import LadderConfig, gap_ladder
    from pyro_compvae.analysis.ladder.data_set import climb_ladder
    from pyro_compvae.analysis.metrics.decomposition import Decomposition, decompose, infer
    from pyro_compvae.analysis.metrics.duplicates import DuplicateScore, active_slots, duplicate_score
    from pyro_compvae.analysis.metrics.evaluation import evaluate, query_mse_by_views, scene_metrics
    from pyro_compvae.analysis.metrics.segmentation import adjusted_rand_index, mean_iou, mean_squared_error
    from pyro_compvae.analysis.posterior.data_set import draws_to_inference_data, save_inference_data, to_inference_data
    from pyro_compvae.analysis.posterior.draws import Draws, guide_draws, importance_draws, weighted_draws
    from pyro_compvae.analysis.posterior.nuts import NutsConfig, nuts_draws
    from pyro_compvae.analysis.posterior.slot_alignment import align_slots
    from pyro_compvae.analysis.runs import Run, load_run
    from pyro_compvae.analysis.sharing.export import export_run
    from pyro_compvae.analysis.training import TrainOptions, train

__all__ = [
    "Batches",
    "Decomposition",
    "Draws",
    "DuplicateScore",
    "EvidenceConfig",
    "LadderConfig",
    "NutsConfig",
    "Run",
    "TrainOptions",
    "active_slots",
    "adjusted_rand_index",
    "align_slots",
    "calibrate",
    "climb_ladder",
    "compare",
    "decompose",
    "decomposition_figure",
    "draws_to_inference_data",
    "duplicate_score",
    "estimate_evidence",
    "evaluate",
    "export_run",
    "gap_ladder",
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
    "train",
    "traversal_figure",
    "views_figure",
    "weighted_draws",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "batches": ("Batches",),
        "calibration.compute": ("calibrate",),
        "comparison.compute": ("compare",),
        "evidence.compute": ("EvidenceConfig",),
        "evidence.data_set": ("estimate_evidence",),
        "figures.decompositions": ("decomposition_figure", "traversal_figure", "views_figure"),
        "ladder.compute": ("LadderConfig", "gap_ladder"),
        "ladder.data_set": ("climb_ladder",),
        "metrics.decomposition": ("Decomposition", "decompose", "infer"),
        "metrics.duplicates": ("DuplicateScore", "active_slots", "duplicate_score"),
        "metrics.evaluation": ("evaluate", "query_mse_by_views", "scene_metrics"),
        "metrics.segmentation": ("adjusted_rand_index", "mean_iou", "mean_squared_error"),
        "posterior.data_set": ("draws_to_inference_data", "save_inference_data", "to_inference_data"),
        "posterior.draws": ("Draws", "guide_draws", "importance_draws", "weighted_draws"),
        "posterior.nuts": ("NutsConfig", "nuts_draws"),
        "posterior.slot_alignment": ("align_slots",),
        "runs": ("Run", "load_run"),
        "sharing.export": ("export_run",),
        "training": ("TrainOptions", "train"),
    },
)
