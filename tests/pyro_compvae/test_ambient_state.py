"""Settings of the calling program change no number, and errors name the problem."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import h5py
import numpy as np
import pytest
import torch
from helpers.scripts import RESULTS
from PIL import Image
from pyro.infer import TraceMeanField_ELBO

from pyro_compvae.analysis import evaluate, load_run
from pyro_compvae.analysis.metrics.evaluation import query_mse_by_views
from pyro_compvae.data import DataError, SceneSet, load_scenes
from pyro_compvae.data.readers.clevr_mv import read_clevr_mv
from pyro_compvae.data.readers.hdf5 import open_hdf5
from pyro_compvae.data.readers.image_files import ImageFile, read_images
from pyro_compvae.data.readers.tfrecords import read_tfrecords
from pyro_compvae.data.records import StoredScene
from pyro_compvae.data.scene_file.reading import read_scene_file
from pyro_compvae.data.scene_file.writing import write_scenes
from pyro_compvae.data.solids.meshes import load_meshes
from pyro_compvae.errors import ConfigError
from pyro_compvae.evidence import (
    FitConfig,
    FlowConfig,
    LogJoint,
    fit_flow,
    fit_gaussian,
    importance_log_evidence,
    proposal_log_evidence,
)
from pyro_compvae.guides import build_guide
from pyro_compvae.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from pyro_compvae.runs.config import from_yaml, to_yaml
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import GuideName
from pyro_compvae.runs.weights import load_weights, save_weights
from pyro_compvae.signals import stop_signals
from pyro_compvae.training.trainer import Trainer

CPU = torch.device("cpu")
GUIDES = get_args(GuideName)


def make_scenes(name: str, size: int = 16) -> SceneSet:
    views = (4,) if name == "mulmon" else ()
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(256, (4, *views, 3, size, size), dtype=torch.uint8, generator=generator)
    return SceneSet(images, viewpoints=torch.rand(4, 4, 3, generator=generator) if views else None)


@pytest.fixture(params=[torch.float64, torch.float16, torch.bfloat16], ids=str)
def default_dtype(request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    yield lambda: torch.set_default_dtype(request.param)
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", ["iodine-sprites-lnms-seed0", "monet-sprites-lnms-seed0", "mulmon-solids-lnms-seed0"])
def test_a_run_is_the_same_whatever_the_default_type(name: str, default_dtype: Callable[[], None]) -> None:
    found = []
    scenes = make_scenes(name.partition("-")[0], 24)
    for _ in range(2):
        run = load_run(RESULTS / name)
        torch.manual_seed(0)
        metrics = evaluate(run.guide, scenes, CPU)
        if scenes.num_views is not None:
            metrics |= {f"query {n}": mse for n, mse in query_mse_by_views(run.guide, scenes, CPU).items()}
        found.append(({key: weight.clone() for key, weight in run.guide.state_dict().items()}, metrics))
        default_dtype()  # for the second time
    (weights, before), (same_weights, after) = found
    assert all(torch.equal(weight, same_weights[key]) for key, weight in weights.items())
    assert before == pytest.approx(after, rel=1e-12, nan_ok=True)


def test_scenes_are_the_same_whatever_the_default_type(default_dtype: Callable[[], None]) -> None:
    found = []
    for _ in range(2):
        loaded = [load_scenes(preset("tiny", name).data, "test", multi_view=name == "mulmon") for name in GUIDES]
        found.append([scenes.spread(3)[:] for scenes in loaded])
        default_dtype()
    for scene, same in zip(*found, strict=True):
        assert scene.image.dtype == torch.float32
        assert torch.equal(scene.image, same.image)
        assert scene.viewpoint is None or torch.equal(scene.viewpoint, same.viewpoint)


@pytest.mark.parametrize("name", GUIDES)
def test_images_of_another_type_than_the_weights_are_refused(name: Any) -> None:
    """A data set's images have another type than a guide that was built under another default."""
    torch.set_default_dtype(torch.float64)
    try:
        guide = build_guide(preset("tiny", name))
    finally:
        torch.set_default_dtype(torch.float32)
    arguments = guide.arguments(make_scenes(name)[:])
    for call in (guide, guide.posterior, guide.model):
        with pytest.raises(ValueError, match=r"x: expected (images|views) .* of float64 in \[0, 1\], got .* float32"):
            call(*arguments)


@pytest.mark.parametrize("name", GUIDES)
def test_an_autocast_around_changes_nothing(name: Any) -> None:
    """An autocast has no effect on a training step, a posterior, its likelihood and evidence."""
    guide = build_guide(preset("tiny", name).replace({"lnms": True}))
    guide.lnms_strength = 0.5
    arguments = guide.arguments(make_scenes(name)[:])
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            guide.zero_grad()
            torch.manual_seed(0)
            loss = TraceMeanField_ELBO()(guide.model.train(), guide.train())(*arguments)
            guide.eval()
            posterior = guide.posterior(*arguments)
            viewpoint = tuple(argument[:, 0] for argument in arguments[1:])
            image = guide.model.likelihood(posterior.loc, *viewpoint)
            log_weights = importance_log_evidence(guide.model, guide, *arguments, num_samples=2).log_weights
        loss.backward()  # outside, as torch advises
        gradients = [parameter.grad for parameter in guide.parameters()]
        found.append([loss, *gradients, posterior.loc, posterior.scale, image.means, image.mask_logits, log_weights])
    for plain, within in zip(*found, strict=True):
        assert plain is not None
        assert within is not None
        assert plain.dtype == within.dtype
        assert torch.equal(plain, within)


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "nonsense"])
def test_a_device_that_is_not_there_is_no_damage(device: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match=rf"device: expected one that this machine has.*got {device}"):
        load_run(RESULTS / "iodine-sprites-lnms-seed0", device)


@pytest.mark.parametrize("name", GUIDES)
def test_training_runs_in_a_thread(name: Any, tmp_path: Path) -> None:
    config = preset("tiny", name)
    trainer = Trainer(build_guide(config), config, make_scenes(name), RunFolder(tmp_path))
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(trainer.run()))
    thread.start()
    thread.join()
    assert results == [True]


def test_scenes_are_written_in_a_thread(tmp_path: Path) -> None:
    scene = StoredScene(np.zeros((8, 8, 3), np.uint8))
    path = tmp_path / "scenes.h5"
    thread = threading.Thread(target=lambda: write_scenes(path, "black", {"train": ("nowhere", [scene])}, {}))
    thread.start()
    thread.join()
    assert len(read_scene_file(path, "train")) == 1


def test_signals_of_the_main_thread_stay_as_they_are_in_another() -> None:
    before = signal.getsignal(signal.SIGINT)
    within: list[Any] = []

    def look() -> None:
        with stop_signals() as stop:
            within.extend((signal.getsignal(signal.SIGINT), list(stop)))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert within == [before, []]


def _checkpoint(folder: Path) -> Path:
    save_checkpoint(folder / "checkpoint.pt", {"config": "", "step": 0, "guide": {}})
    return folder / "checkpoint.pt"


def _weights(folder: Path) -> Path:
    save_weights(folder / "model.safetensors", "", 0, {"a": torch.zeros(1)})
    return folder / "model.safetensors"


def _hdf5(folder: Path) -> Path:
    with h5py.File(folder / "file.h5", "w"):
        pass
    return folder / "file.h5"


def _image(folder: Path) -> Path:
    Image.new("RGB", (4, 4)).save(folder / "image.png")
    return folder / "image.png"


def _text(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
        return folder / name

    return make


def _open_hdf5(path: Path) -> None:
    with open_hdf5(path):
        pass


READERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any], type[Exception]]] = {
    "checkpoint": (_checkpoint, load_checkpoint, CheckpointError),
    "safetensors": (_weights, load_weights, CheckpointError),
    "hdf5": (_hdf5, _open_hdf5, DataError),
    "tfrecords": (_text("a.tfrecords"), lambda path: list(read_tfrecords(path)), DataError),
    "image": (_image, lambda path: list(read_images([ImageFile(path)])), DataError),
    "mesh": (_text("a.obj"), lambda path: load_meshes(path.parent), DataError),
    "index": (_text("clevr_mv/clevr_mv_train.json"), lambda path: read_clevr_mv(path.parent, "clevr_mv"), DataError),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_file_without_permission_is_not_called_damaged(kind: str) -> None:
    make, read, error = READERS[kind]
    with tempfile.TemporaryDirectory() as name:  # pytest's folder will not do, because no other user may enter it
        folder = Path(name)
        folder.chmod(0o755)
        path = make(folder)
        path.parent.chmod(0o755)
        path.chmod(0)
        with as_nobody(), pytest.raises(error, match=r"cannot be read \(Permission denied\)\. Look at") as info:
            read(path)
    assert str(path) in str(info.value)
    assert not any(word in str(info.value) for word in ("damaged", "ownload", "xport", "again"))


@contextmanager
def as_nobody() -> Iterator[None]:
    """A context in which this process is another user, because root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_configuration_that_leaves_open_what_was_trained_is_refused() -> None:
    """Configurations from before the field existed had other networks."""
    old = to_yaml(preset("default")).replace("  layer_norm: split\n", "")
    with pytest.raises(ConfigError, match=r'missing value for field "refinement\.layer_norm"'):
        from_yaml(old)


def test_a_fit_is_the_same_whatever_the_default_type(default_dtype: Callable[[], None]) -> None:
    """Gaussian, flow and annealing are compared on a trained run."""
    run = load_run(RESULTS / "iodine-sprites-lnms-seed0", num_slots=2)
    images = make_scenes("iodine", 24)[:1].image
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        log_joint, q = LogJoint(run.model, images), run.guide.posterior(images)
        fit = fit_gaussian(log_joint, q, "full", FitConfig(steps=2))
        flow = fit_flow(log_joint, fit, FlowConfig(steps=2, num_samples=4))
        proposal = flow.proposal()
        estimate = proposal_log_evidence(log_joint, proposal, num_samples=4)
        found.append([fit.elbo, flow.elbo, estimate.log_weights])
        default_dtype()
    for before, after in zip(*found, strict=True):
        assert torch.equal(before, after)
