"""Isolation: every test starts from the same seeds and leaves no global state behind."""

from __future__ import annotations

from collections.abc import Iterator

import pyro
import pytest
import torch


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
