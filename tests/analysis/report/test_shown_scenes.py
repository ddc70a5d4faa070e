"""Of every scene in a report, what the numbers say is computed from the masks shown."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.scripts import RESULTS
from numpy.typing import NDArray
from PIL import Image

from pyro_compvae.analysis import active_slots, adjusted_rand_index, infer, mean_iou
from pyro_compvae.analysis.figures.labels import BLACK, LABEL_COLOURS
from pyro_compvae.analysis.metrics.duplicates import duplicate_score
from pyro_compvae.analysis.metrics.segmentation import match_slots
from pyro_compvae.analysis.report.folders import ReportedRun, open_folders
from pyro_compvae.analysis.report.scenes import shown_scenes
from pyro_compvae.data import Scene

NUM_SCENES = 6


def picture(uri: str) -> NDArray[np.float64]:
    """The pixels (H, W, 3) of a data URI, in [0, 1]."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))), dtype=np.float64) / 255


def masks_shown(view: dict[str, Any]) -> torch.Tensor:
    """The segmentation (1, H, W) that pointing at a pixel follows."""
    return torch.tensor([int(label, 36) for label in view["labels"]]).view(1, *view["size"])


def check_view(view: dict[str, Any], truth: torch.Tensor) -> None:
    said, shown, slots = view["metrics"], masks_shown(view), view["slots"]
    K = len(slots)
    shares = [float((shown == k).double().mean()) for k in range(K)]
    assert [slot["share"] for slot in slots] == pytest.approx(shares, abs=1e-4)
    assert said["active_slots"] == sum(share >= 0.01 for share in shares) == int(active_slots(shown, K).sum())
    assert said["miou"] == pytest.approx(float(mean_iou(shown, truth)), abs=1e-4)
    if "ari_fg" in said:
        assert said["ari_fg"] == pytest.approx(float(adjusted_rand_index(shown, truth, foreground_only=True)), abs=1e-4)
    assert said["duplicates"] == int(duplicate_score(torch.randn(1, K, 2), shown, truth).claimed)
    observation, reconstruction = (picture(view[name]) for name in ("observation", "reconstruction"))
    assert said["mse"] == pytest.approx(((observation - reconstruction) ** 2).mean(), rel=0.02, abs=1e-4)
    colours = np.array([[int(slot["colour"][i : i + 2], 16) / 255 for i in (1, 3, 5)] for slot in slots])
    np.testing.assert_allclose(picture(view["segmentation"]), colours[shown[0].numpy()], atol=1e-6)


def opened(path: Path) -> tuple[ReportedRun, Scene]:
    (reported,), _ = open_folders([path])
    return reported, reported.loaded().scenes("test")[:NUM_SCENES]


def test_numbers_of_images_are_of_the_masks_shown() -> None:
    reported, scenes = opened(RESULTS / "iodine-sprites-plain-seed0")
    guide = reported.loaded().guide
    first, second = (infer(guide, scenes).loc for _ in range(2))
    assert (first - second).abs().max() > 0.1, "two inferences differ, so that mixing them would show"
    shown = shown_scenes(reported, NUM_SCENES)
    assert scenes.labels is not None
    for b, scene in enumerate(shown):
        (view,) = scene["views"]
        truth = scenes.labels[b : b + 1]
        check_view(view, truth)
        assert scene["pairs"] == {name: view["metrics"][name] for name in ("duplicates", "duplicates_latent")}
        # Slots that are matched to an object have its colour.
        for k, label in enumerate(match_slots(masks_shown(view), truth, len(view["slots"]))[0].tolist()):
            colour = [int(view["slots"][k]["colour"][i : i + 2], 16) / 255 for i in (1, 3, 5)]
            if label >= 0:
                np.testing.assert_allclose(colour, BLACK if label == 0 else LABEL_COLOURS[label - 1], atol=2e-3)


def test_numbers_of_every_view_are_of_the_masks_in_that_view(tiny_run: Callable[..., Path]) -> None:
    reported, scenes = opened(tiny_run("mulmon"))
    assert scenes.labels is not None
    shown = shown_scenes(reported, NUM_SCENES)
    names = [view["name"] for view in shown[0]["views"]]
    V = len(names)
    assert names[V // 2 - 1 : V // 2 + 1] == [f"view {V // 2}, observed", f"view {V // 2 + 1}, predicted"]
    for b, scene in enumerate(shown):
        for v, view in enumerate(scene["views"]):
            check_view(view, scenes.labels[b : b + 1, v])
            assert [slot["colour"] for slot in view["slots"]] == [slot["colour"] for slot in scene["views"][0]["slots"]]
        assert scene["pairs"]["duplicates"] == max(view["metrics"]["duplicates"] for view in scene["views"])
