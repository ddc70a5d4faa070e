"""Random streams of scenes that are made on the spot."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pyro_compvae.data import SceneSet, make_multi_dsprites, make_sprites, make_tetrominoes


@pytest.mark.parametrize("make", [make_sprites, make_tetrominoes, make_multi_dsprites])
def test_seeds_and_splits(make: Callable[..., SceneSet]) -> None:
    first = make("train", 50, seed=1)
    assert torch.equal(first.images, make("train", 50, seed=1).images)
    assert torch.equal(first.images, make("train", 1500, seed=1).images[:50])
    for other in (make("train", 50, seed=2), make("test", 50, seed=1)):
        assert not torch.equal(first.images, other.images)
