"""Colours of label maps: segmentation and truth are alike where slots have found objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from pyro_compvae.analysis.figures import decompositions
from pyro_compvae.analysis.figures.labels import (
    BLACK,
    LABEL_COLOURS,
    colour_segmentation,
    colour_truth,
    slot_colours,
)
from pyro_compvae.analysis.metrics.decomposition import Decomposition
from pyro_compvae.data import Scene

TRUTH = torch.tensor([[0, 0, 0, 1, 1, 3, 3, 3]])


def test_a_perfect_segmentation_looks_like_the_truth_whatever_the_order_of_slots() -> None:
    order = torch.tensor([4, 2, 0, 1])  # the slot of every label
    segmentation = order[TRUTH]
    colours = slot_colours(segmentation[None], TRUTH[None], 5)
    np.testing.assert_array_equal(colour_segmentation(segmentation, colours), colour_truth(TRUTH))
    assert len(np.unique(colours, axis=0)) == 5, "slots without an object have colours that no object has"


def test_a_divided_object_and_a_divided_background_have_colours_of_their_own() -> None:
    segmentation = torch.tensor([[0, 0, 4, 1, 1, 2, 2, 3]])
    colours = slot_colours(segmentation[None], TRUTH[None], 5)
    np.testing.assert_array_equal(colours[[0, 1, 2]], [BLACK, LABEL_COLOURS[0], LABEL_COLOURS[2]])
    known = np.concatenate([BLACK[None], LABEL_COLOURS[[0, 2]]])
    assert not any((colours[k] == one).all() for k in (3, 4) for one in known)


def test_colours_are_those_of_all_views_together() -> None:
    truth = torch.tensor([[[0, 0, 1, 2]], [[0, 1, 1, 2]]])
    segmentation = torch.tensor([[[0, 0, 1, 1]], [[0, 1, 1, 2]]])  # the first view alone would match slot 1 to either
    colours = slot_colours(segmentation, truth, 3)
    np.testing.assert_array_equal(colours, [BLACK, LABEL_COLOURS[0], LABEL_COLOURS[1]])


def test_many_slots_have_colours_with_and_without_masks() -> None:
    many = torch.arange(40)[None]
    assert len(np.unique(slot_colours(many[None], None, 24), axis=0)) == 24
    assert slot_colours(many[None], many[None], 40).shape == (40, 3)


def test_figures_frame_slots_in_the_colours_of_the_segmentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(decompositions, "_draw", lambda path, pictures, *_, **__: drawn.append(pictures))
    segmentation = torch.tensor([2, 1, 0, 0])[TRUTH]
    masks = torch.nn.functional.one_hot(segmentation, 3).movedim(-1, 0)[None].float()
    z = torch.zeros(1, 3, 1)
    image = torch.zeros(1, 3, 1, 8)
    found = Decomposition(Normal(z, 1), z, image, torch.zeros(1, 3, 3, 1, 8), masks, segmentation[None])
    scene = Scene(image, TRUTH[None], torch.tensor([2]), None)
    decompositions.decomposition_figure(tmp_path / "figure.png", scene, found)
    (row,) = drawn[0]
    np.testing.assert_array_equal(row[-2].pixels, row[-1].pixels)
    np.testing.assert_array_equal([tile.frame for tile in row[2:5]], [LABEL_COLOURS[2], LABEL_COLOURS[0], BLACK])
    for k, tile in enumerate(row[2:5]):
        np.testing.assert_array_equal(row[-2].pixels[(segmentation == k).numpy()][0], tile.frame)


def test_runs_of_several_k_with_and_without_masks_share_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, list] = {}
    monkeypatch.setattr(
        decompositions, "_draw", lambda path, pictures, columns, **_: drawn.update(p=pictures, c=columns)
    )

    def of(num_slots: int, labels: torch.Tensor | None) -> tuple[Scene, Decomposition]:
        image, z = torch.zeros(1, 3, 1, 8), torch.zeros(1, num_slots, 1)
        masks, segmentation = torch.full((1, num_slots, 1, 8), 1 / num_slots), torch.zeros(1, 1, 8, dtype=torch.int64)
        found = Decomposition(Normal(z, 1), z, image, torch.zeros(1, num_slots, 3, 1, 8), masks, segmentation)
        return Scene(image, labels, None, None), found

    decompositions.compared_figure(tmp_path / "a.png", {"3": of(3, TRUTH[None]), "4": of(4, None)})
    assert drawn["c"] == ["observation", "reconstr.", "slot 1", "slot 2", "slot 3", "slot 4", "segment.", "truth"]
    assert [len(row) for row in drawn["p"]] == [8, 8]
    assert (drawn["p"][0][5].pixels == 1).all(), "no slot 4"
    assert (drawn["p"][1][7].pixels == 1).all(), "no truth"
