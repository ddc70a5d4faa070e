"""Isolation, so that every test starts from the same seeds and leaves no global state behind; and shared runs."""

from __future__ import annotations

import fcntl
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pyro
import pytest
import torch
from helpers.pictures import undrawn
from helpers.scripts import load_script
from pyro.util import get_rng_state, set_rng_state

from pyro_compvae.evidence.annealing import path


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from all tests and the scripts that they run, except from tests that need one."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest slow tests first, so that no process is left alone with one of them at the end.

    Each of the two processes begins with half of the list.
    """

    def seconds(item: pytest.Item) -> float:
        mark = item.get_closest_marker("slow")
        return mark.kwargs.get("seconds", 0) if mark else 0

    items.sort(key=seconds, reverse=True)
    items[:] = items[::2] + items[1::2] if any(map(seconds, items)) else items


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    # Tests compute on tiny tensors, for which a second thread only waits for the first.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[..., Path]:
    """The folder of a finished run of two steps, for a guide and with further options of run_svi.py.

    It is trained once, by the process whose test needs it first, and must not be changed: see `tiny_copy`. Random state
    and output of a test do not depend on whether its process trained it. Its figures are empty files.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "tiny_runs"
    folder.mkdir(exist_ok=True)

    def train(guide: str = "iodine", *options: str) -> Path:
        run_dir = folder / "_".join((guide, *options)).replace(os.sep, "-")
        with run_dir.with_name(f"{run_dir.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (run_dir / "summary.json").exists():
                arguments = ["--preset", "tiny", "--guide", guide, "--steps", "2", *options, "--run-dir", str(run_dir)]
                random, threads, said = get_rng_state(), torch.get_num_threads(), io.StringIO()
                torch.set_num_threads(1)
                try:
                    with pyro.get_param_store().scope(), redirect_stdout(said), redirect_stderr(said), undrawn():
                        assert load_script("run_svi").main(arguments) == 0, said.getvalue()
                finally:
                    set_rng_state(random)
                    torch.set_num_threads(threads)
        return run_dir

    return train


@pytest.fixture(scope="module")
def quick_pilot() -> Iterator[None]:
    """Pilots of annealing have at most 5 temperatures instead of 75, and are short: for tests of what is done with
    draws.

    Chains then move along the path too fast, but the exactness of the weights does not depend on that.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(path, "SLOWEST_GROWTH", 100.0)
        patch.setattr(path, "PILOT_TRANSITIONS", 1)
        yield


@pytest.fixture
def no_pictures() -> Iterator[None]:
    """Figures are made and not drawn."""
    with undrawn():
        yield


@pytest.fixture
def tiny_copy(tiny_run: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a `tiny_run` in the folder `run` of the test, which may change it."""

    def copy(guide: str = "iodine", *options: str) -> Path:
        return Path(shutil.copytree(tiny_run(guide, *options), tmp_path / "run"))

    return copy
