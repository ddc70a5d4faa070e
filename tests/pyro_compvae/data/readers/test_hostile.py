"""Broken and hostile files give a clear error, in bounded time and memory, and never run code."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import fuzz
import google_crc32c
import h5py
import numpy as np
import pytest
import torch
from helpers import formats
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from pyro_compvae.data import DataError, read_clevr_mv, read_scene_file, write_scenes
from pyro_compvae.data.readers import hdf5, image_files, tfrecords
from pyro_compvae.data.readers.sources import open_source
from pyro_compvae.data.records import StoredScene
from pyro_compvae.data.solids.meshes import load_meshes
from pyro_compvae.errors import ConfigError
from pyro_compvae.runs.checkpoint import CheckpointError, load_checkpoint
from pyro_compvae.runs.config import from_yaml, to_yaml
from pyro_compvae.runs.presets import preset

MANY = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_damaged_files(name: str) -> None:
    """A small part of what `python tests/fuzz.py` tries."""
    outcomes = fuzz.fuzz(name, 3 if name in SLOW_TO_OPEN else 8, seed=1)
    assert outcomes["refused"] > 0, outcomes
    assert set(outcomes) <= {"read", "refused"}, outcomes


SLOW_TO_OPEN = ("object-centric-library", "EfficientMORL", "file of scenes", "NetCDF")


@pytest.mark.slow
@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_many_damaged_files(name: str) -> None:
    outcomes = fuzz.fuzz(name, 20 if name in SLOW_TO_OPEN else 100, seed=2)
    assert set(outcomes) <= {"read", "refused"}, outcomes


class Payload:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


def test_a_payload_works_where_files_are_unpickled(tmp_path: Path) -> None:
    """This is the premise of the tests below."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran"))).close()
    assert (tmp_path / "ran").exists()


def _pickled_npz(root: Path, payload: Payload) -> None:
    path = fuzz.TARGETS["CLE-MV npz"].make(root)
    with path.open("wb") as file:
        np.savez(file, images=np.array([payload], dtype=object), masks=np.zeros(3))


def _pickled_npy(root: Path, payload: Payload) -> None:
    path = fuzz.TARGETS["CLE-MV npz"].make(root)
    with path.open("wb") as file:
        np.save(file, np.array([payload], dtype=object))


def _bare_pickle(root: Path, payload: Payload) -> None:
    fuzz.TARGETS["CLE-MV npz"].make(root).write_bytes(pickle.dumps(payload))


@pytest.mark.parametrize("write", [_pickled_npz, _pickled_npy, _bare_pickle])
def test_pickled_arrays_do_not_run(tmp_path: Path, write: Callable[[Path, Payload], None]) -> None:
    write(tmp_path, Payload(tmp_path / "ran"))
    with pytest.raises(DataError, match="Pickled content is never loaded"):
        read_clevr_mv(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_pickled_metadata_are_not_read(tmp_path: Path) -> None:
    formats.object_centric_library(tmp_path / "a.hdf5", 1, 3)
    np.save(tmp_path / "a-metadata.npy", np.array([Payload(tmp_path / "ran")], dtype=object))
    assert len(list(open_source(tmp_path / "a.hdf5").parts["all"].scenes())) == 1
    assert not (tmp_path / "ran").exists()


def test_pickled_checkpoints_do_not_run(tmp_path: Path) -> None:
    content = {"config": "", "step": 1, "guide": Payload(tmp_path / "ran")}
    torch.save(content, tmp_path / "new.pt")
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(content))
    for name in ("new", "old", "bare"):
        with pytest.raises(CheckpointError, match="expected a checkpoint of tensors and plain containers"):
            load_checkpoint(tmp_path / f"{name}.pt")
    assert not (tmp_path / "ran").exists()


def test_configurations_do_not_run(tmp_path: Path) -> None:
    text = f"guide: !!python/object/apply:builtins.open [{tmp_path / 'ran'}, w]"
    with pytest.raises(ConfigError, match="expected YAML"):
        from_yaml(text)
    assert not (tmp_path / "ran").exists()


def test_yaml_that_doubles_and_nests() -> None:
    doubled = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    with pytest.raises(ConfigError, match="expected values in full, got an alias"):
        from_yaml(doubled)
    bomb = "decoder:\n  channels: &a [1, 1]\n  kernel_size: *a\n"  # in known fields, where an error would quote it
    with pytest.raises(ConfigError, match="expected values in full, got an alias"):
        from_yaml(bomb)
    with pytest.raises(ConfigError, match="expected at most 8 levels of nesting"):
        from_yaml("guide: " + "[" * 60_000)
    with pytest.raises(ConfigError, match="expected at most 8 levels of nesting"):
        from_yaml("- " * 30_000)
    with pytest.raises(ConfigError, match="expected at most 65536 characters, got 100000"):
        from_yaml("#" * 100_000)


@pytest.mark.parametrize("value", ["9" * 5000, "!!timestamp a", "!!bool a", "!!float a", "2001-99-99", "{[]: 1}"])
def test_yaml_on_which_its_library_raises_anything(value: str) -> None:
    with pytest.raises(ConfigError, match="expected YAML, got"):
        from_yaml(f"seed: {value}")


def test_errors_do_not_quote_a_long_value() -> None:
    with pytest.raises(ConfigError, match=r"^configuration: ") as caught:
        from_yaml(to_yaml(preset("tiny")).replace("seed: 0", f"seed: {'x' * 50_000}"))
    assert len(str(caught.value)) < 1100


@pytest.mark.parametrize("data_path", ["../../outside.npy", "/etc/passwd", "data/../../../outside.npy"])
def test_paths_stay_inside(tmp_path: Path, data_path: str) -> None:
    index = fuzz.TARGETS["CLE-MV index"].make(tmp_path / "set")
    (tmp_path / "outside.npy").write_bytes((index.parent / "data" / "CLEVR_train_000000.npy").read_bytes())
    content = json.loads(index.read_text())
    content["scenes"][0]["data_path"] = data_path
    index.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"data_path: expected a file inside"):
        read_clevr_mv(tmp_path / "set")


def test_brackets_without_end(tmp_path: Path) -> None:
    index = fuzz.TARGETS["CLE-MV index"].make(tmp_path)
    index.write_text('{"scenes": ' + "[" * 200_000)
    with pytest.raises(DataError, match="expected JSON, got"):
        read_clevr_mv(tmp_path)


@pytest.mark.slow
def test_a_zip_bomb(tmp_path: Path) -> None:
    """The archive holds a gigabyte of zeros in a megabyte."""
    path = fuzz.TARGETS["CLE-MV npz"].make(tmp_path)
    header = (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '|u1', 'fortran_order': False, 'shape': (1073741824,), }".ljust(117)
        + b"\n"
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("images.npy", "w") as member:
        member.write(header)
        for _ in range(1024):
            member.write(bytes(1 << 20))
    assert path.stat().st_size < 2 << 20
    result = fuzz.outcome(lambda: read_clevr_mv(tmp_path), DataError)
    assert result == "refused"
    with pytest.raises(DataError, match=r"expected at most 256 MiB of arrays, got 1024 MiB"):
        read_clevr_mv(tmp_path)


def test_an_array_of_a_huge_declared_shape(tmp_path: Path) -> None:
    path = fuzz.TARGETS["CLE-MV npz"].make(tmp_path)
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }" % 10**15
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + text.ljust(117) + b"\n" + bytes(100))
    assert fuzz.outcome(lambda: read_clevr_mv(tmp_path), DataError) == "refused"


def frame(length: int, content: bytes) -> bytes:
    """A TFRecord that declares this length, with a sound checksum of the length."""
    header = struct.pack("<Q", length)
    crc = google_crc32c.value(header)
    return header + struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF) + content


def test_a_record_of_a_huge_declared_length(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecords"
    path.write_bytes(gzip.compress(frame(2**62, b"")))
    with pytest.raises(DataError, match=rf"record 0: expected at most 64 MiB in a record, got one of {2**62} bytes"):
        open_source(path)


def test_a_gzip_bomb(tmp_path: Path) -> None:
    """A record of zeros declares the largest allowed length; what follows it is never unpacked."""
    path = tmp_path / "a.tfrecords"
    with gzip.open(path, "wb") as file:
        file.write(frame(tfrecords.MAX_RECORD, b""))
        for _ in range(512):
            file.write(bytes(1 << 20))
    assert fuzz.outcome(lambda: open_source(path), DataError) == "refused"
    with pytest.raises(DataError, match="record 0: expected content that agrees with its checksum"):
        open_source(path)


def test_an_image_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file holds a picture of 60,000 × 60,000 pixels in a few bytes."""
    chunk = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", chunk), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png: expected .*(pixels|image)"):
        list(open_source(tmp_path).parts["all"].scenes())
    monkeypatch.setattr(image_files, "MAX_PIXELS", 10)
    fuzz.TARGETS["image .png"].make(tmp_path)
    with pytest.raises(DataError, match=r"a\.png: expected at most 10 pixels, got 12 x 16\. Reduce it first"):
        list(open_source(tmp_path).parts["all"].scenes())


def test_a_compressed_chunk_that_could_fill_the_memory(tmp_path: Path) -> None:
    """libhdf5 unpacks a chunk to its end, whatever size it declares."""
    path = fuzz.TARGETS["file of scenes"].make(tmp_path)
    with h5py.File(path, "a") as file:
        del file["train/images"]
        images = file["train"].create_dataset("images", (4, 8, 8, 3), "u1", chunks=(4, 8, 8, 3), compression="gzip")
        images.id.write_direct_chunk((0, 0, 0, 0), bytes(5 << 20))
    with pytest.raises(
        DataError, match=r"expected chunks of at most 256 MiB, and 4 MiB compressed, got .* 5242880 bytes"
    ):
        read_scene_file(path, "train")


def test_an_hdf5_bomb(tmp_path: Path) -> None:
    """The file holds one scene of 32,768 × 32,768 pixels in four megabytes."""
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for name, channels in (("image", 3), ("mask", 1)):
            shape = (1, 32_768, 32_768, channels)
            data = file.create_dataset(name, shape, "u1", chunks=(1, 4096, 4096, channels), compression="gzip")
            block = zlib.compress(bytes(4096 * 4096 * channels))
            for row in range(8):
                for column in range(8):
                    data.id.write_direct_chunk((0, row * 4096, column * 4096, 0), block)
    assert (tmp_path / "a.hdf5").stat().st_size < 8 << 20
    with pytest.raises(DataError, match=r"/image: expected at most 64 MiB for a scene, got \(32768, 32768, 3\) values"):
        list(open_source(tmp_path / "a.hdf5").parts["all"].scenes())


def test_hdf5_that_libhdf5_does_not_survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fuzz.TARGETS["file of scenes"].make(tmp_path)
    monkeypatch.setattr(hdf5, "visited", set())
    for program, message in [
        ("import os; os.kill(os.getpid(), 11)", "libhdf5 ends with exit code -11"),
        ("while True: pass", "libhdf5 is not through with it after 0.5 seconds"),
    ]:
        (tmp_path / "probe.py").write_text(program)
        monkeypatch.setattr(hdf5, "PROBE", tmp_path / "probe.py")
        monkeypatch.setattr(hdf5, "PROBE_SECONDS", 0.5 if "while" in program else 60)
        with pytest.raises(DataError, match=message):
            read_scene_file(path, "train")


def test_filters_that_load_libraries(tmp_path: Path) -> None:
    """A file may name a filter by number, for which libhdf5 looks for a library to load."""
    path = fuzz.TARGETS["file of scenes"].make(tmp_path)
    with h5py.File(path, "a") as file:
        del file["train/images"]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((2, 8, 8, 3))
        properties.set_filter(h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FLAG_OPTIONAL)
        properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((2, 8, 8, 3))
        h5py.h5d.create(file["train"].id, b"images", h5py.h5t.STD_U8LE, space, properties)
    with pytest.raises(DataError, match=r"expected the filters gzip, shuffle, fletcher32, lzf, got the numbers"):
        read_scene_file(path, "train")


@MANY
@given(content=st.binary(max_size=300))
def test_anything_but_tfrecords(tmp_path: Path, content: bytes) -> None:
    for data in (content, gzip.compress(content)):
        (tmp_path / "a.tfrecords").write_bytes(data)
        with pytest.raises(DataError):
            open_source(tmp_path / "a.tfrecords")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@MANY
@given(data=st.data())
def test_indexes_with_anything_anywhere(tmp_path: Path, data: st.DataObject) -> None:
    """An index may have any value in any place."""
    index = tmp_path / "clevr_mv" / "clevr_mv_train.json"
    if not index.is_file():
        fuzz.TARGETS["CLE-MV index"].make(tmp_path)
        (tmp_path / "sound.json").write_text(index.read_text())
    content = json.loads((tmp_path / "sound.json").read_text())
    *path, last = data.draw(
        st.sampled_from(
            [
                ("scenes",),
                ("scenes", 0),
                *(("scenes", 0, name) for name in ("data_path", "depth_orders", "camera")),
                ("scenes", 0, "camera", "location"),
                ("scenes", 0, "camera", "location", 0),
                ("scenes", 0, "depth_orders", 0),
            ]
        )
    )
    place = content
    for step in path:
        place = place[step]
    place[last] = data.draw(JSON)
    index.write_text(json.dumps(content))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy warns of numbers that do not fit
        with contextlib.suppress(DataError):
            read_clevr_mv(tmp_path)


@MANY
@given(data=st.data())
def test_scenes_of_any_shape_come_back(tmp_path: Path, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 6))
    views = data.draw(st.sampled_from([(), (1,), (3,)]))
    masks = data.draw(st.booleans())
    scenes = []
    for _ in range(data.draw(st.integers(1, 3))):
        image = data.draw(numpy_strategies.arrays(np.uint8, (*views, size, size, 3)))
        labels = data.draw(numpy_strategies.arrays(np.uint8, (*views, size, size))) if masks else None
        count = data.draw(st.integers(0, 255)) if masks else None
        floats = st.floats(-5, 5, width=32)
        viewpoints = data.draw(numpy_strategies.arrays(np.float32, (*views, 3), elements=floats)) if views else None
        scenes.append(StoredScene(image, labels, count, viewpoints))
    path = tmp_path / "a.h5"
    path.unlink(missing_ok=True)
    write_scenes(path, data.draw(st.text(max_size=5).filter(lambda text: "\0" not in text)), {"test": ("", scenes)}, {})
    with h5py.File(path) as file:
        for name, field in (("images", "image"), ("labels", "labels"), ("num_objects", "num_objects")):
            stored = [getattr(scene, field) for scene in scenes]
            assert (name in file["test"]) == (stored[0] is not None)
            if stored[0] is not None:
                np.testing.assert_array_equal(file["test"][name][:], stored)


def test_meshes_of_a_huge_declared_size(tmp_path: Path) -> None:
    (tmp_path / "a.stl").write_bytes(bytes(80) + struct.pack("<I", 2**32 - 1) + bytes(50))
    (tmp_path / "b.ply").write_text(
        "ply\nformat binary_little_endian 1.0\nelement vertex 4000000000\nproperty float x\nproperty float y\n"
        "property float z\nelement face 4000000000\nproperty list uchar int vertex_indices\nend_header\n"
    )
    for name in ("a.stl", "b.ply"):
        folder = tmp_path / name[0]
        folder.mkdir()
        (tmp_path / name).rename(folder / name)
        assert fuzz.outcome(lambda folder=folder: load_meshes(folder), DataError) == "refused"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["CLE-MV index", "CLE-MV npz", "TFRecords, plain", "tf.train.Example", "configuration"]
)
def test_coverage_guided(name: str) -> None:
    """A small part of what `python tests/fuzz_coverage.py` tries, if Atheris is installed."""
    pytest.importorskip("atheris")
    tests = Path(fuzz.__file__).parent
    command = [sys.executable, str(tests / "fuzz_coverage.py"), name, "-runs=2000", "-seed=1"]
    environment = os.environ | {"PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert "Done 2000 runs" in run.stderr, run.stderr[-2000:]
