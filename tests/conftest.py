"""Isolation: every test starts from the same seeds and leaves no global state behind."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyro
import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    """Hide a GPU from all tests, and the scripts that they run, but from those that want one."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    # Tests compute on tiny tensors, where a second thread only waits for the first.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
