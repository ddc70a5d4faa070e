"""Fuzzing of every reader with many damaged files: ``PYTHONPATH=. python tests/fuzz.py --inputs 1000``.

A reader may read a damaged file, or raise its own kind of error. It must not raise another one, hang, fill the memory
or end the process. Every input is read in a separate process with limits.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import io
import json
import os
import resource
import select
import signal
import sys
import tempfile
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import trimesh
import xarray
import yaml
from helpers import formats
from PIL import Image

from pyro_compvae.analysis.report.folders import Missing, ReportedRun
from pyro_compvae.analysis.results import read, save
from pyro_compvae.data import DataError, SceneSet, read_clevr_mv, read_scene_file, write_scenes
from pyro_compvae.data.readers.sources import open_source
from pyro_compvae.data.records import StoredScene
from pyro_compvae.data.scene_file.reading import verify
from pyro_compvae.data.solids.clevr_mv_writer import write_clevr_mv
from pyro_compvae.data.solids.meshes import load_meshes
from pyro_compvae.data.solids.scenes import solid_scenes
from pyro_compvae.errors import CompvaeError, ConfigError
from pyro_compvae.guides import build_guide
from pyro_compvae.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from pyro_compvae.runs.config import from_yaml, to_yaml
from pyro_compvae.runs.environment import read_environment, write_environment
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.summary import SummaryError
from pyro_compvae.runs.weights import load_weights, save_weights

CPU_SECONDS = 20
WALL_SECONDS = 120
MEMORY = 2 << 30
"""How many bytes a reader may take beyond what the process has."""


class Target(NamedTuple):
    """A reader, with a function that makes a sound file (and returns it), one that reads it, and its own error."""

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    error: type[Exception] = DataError
    repair: Callable[[bytes], bytes] = bytes
    unpack: Callable[[bytes], bytes] = bytes
    """For mutations inside a container, unpack gives the bytes to mutate, and repair wraps them again."""
    damage: Callable[[bytes, np.random.Generator], bytes] | None = None
    """How inputs are made from sound ones; by default `mutate`."""


def read_source(path: Path) -> object:
    """Read every scene of a source."""
    return [SceneSet.from_scenes(part.scenes()) for part in open_source(path).parts.values()]


def _clevr_mv(folder: Path) -> Path:
    return write_clevr_mv(folder, "clevr_mv", {"train": solid_scenes("train", 1), "test": solid_scenes("test", 1)})


def _structured(folder: Path) -> Path:
    path = _clevr_mv(folder) / "data" / "CLEVR_train_000000.npy"
    with np.load(path) as arrays:
        images, masks = arrays["images"], arrays["masks"]
    layout = np.dtype([("images", images.dtype, images.shape), ("masks", masks.dtype, masks.shape)])
    content = np.zeros((), layout)
    content["images"], content["masks"] = images, masks
    with path.open("wb") as file:
        np.save(file, content)
    return path


def _tfrecords(folder: Path) -> Path:
    formats.tetrominoes(folder / "a.tfrecords", 2)
    return folder / "a.tfrecords"


def _reframe(content: bytes) -> bytes:
    """A TFRecord file with this content and sound checksums and compression, so that the parser gets to see it."""
    with tempfile.TemporaryFile() as file:
        formats.RecordWriter(file).write(content)
        file.seek(0)
        return gzip.compress(file.read(), 1)


def _first_record(content: bytes) -> bytes:
    plain = gzip.decompress(content)
    return plain[12 : 12 + int.from_bytes(plain[:8], "little")]


def _zlib(folder: Path) -> Path:
    path = _tfrecords(folder)
    path.write_bytes(zlib.compress(gzip.decompress(path.read_bytes()), 1))
    return path


def _hdf5_layout(write: Callable[[Path], object]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write(folder / "a.h5")
        return folder / "a.h5"

    return make


def _scene_file(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    scenes = [
        StoredScene(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), rng.integers(0, 3, (8, 8), dtype=np.uint8), 2)
        for _ in range(4)
    ]
    write_scenes(folder / "a.h5", "noise", {"train": ("here", scenes)}, {})
    return folder / "a.h5"


def _image(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        colours = np.random.default_rng(0).integers(0, 256, (16, 12, 3), dtype=np.uint8)
        Image.fromarray(colours).save(folder / f"a{suffix}")
        return folder / f"a{suffix}"

    return make


def _mask(folder: Path) -> Path:
    for name, colours in (("images", 200), ("masks", 7)):
        (folder / name).mkdir()
        Image.new("L", (16, 12), colours).save(folder / name / "a.png")
    return folder / "masks" / "a.png"


def _mesh(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        trimesh.creation.capsule(count=[6, 6]).export(folder / f"a{suffix}")
        return folder / f"a{suffix}"

    return make


def _checkpoint(folder: Path) -> Path:
    content = {"config": "guide: iodine", "step": 3, "guide": {"weight": torch.arange(12.0).reshape(3, 4)}}
    save_checkpoint(folder / "checkpoint.pt", content)
    return folder / "checkpoint.pt"


def _weights(folder: Path) -> Path:
    save_weights(folder / "model.safetensors", "guide: iodine", 3, {"weight": torch.arange(12.0).reshape(3, 4)})
    return folder / "model.safetensors"


def _netcdf(folder: Path) -> Path:
    values = np.random.default_rng(0).normal(size=(1, 40, 4))
    coords = {"chain": [0], "scene": range(4), "family": ["a", "bb"]}
    save(folder / "a.nc", xarray.Dataset({"x": (("chain", "draw", "scene"), values)}, coords), {"step": 2})
    return folder / "a.nc"


def _summary(folder: Path) -> Path:
    RunFolder(folder).write_summary(
        {"guide": "iodine", "lnms": True, "steps": 3, "splits": {"test": "here"}, "num_test_scenes": 4, "elbo": -1.5}
        | {"miou": None, "query_mse_by_observed_views": {"1": 0.5}, "seconds": 1.5, "device": "cpu"}
    )
    return folder / "summary.json"


def _calls(folder: Path) -> Path:
    write_environment(folder / "environment.json", ["a.py", "--steps", "3"], torch.device("cpu"))
    return folder / "environment.json"


def _log(folder: Path) -> Path:
    (folder / "metrics.csv").write_text("step,loss,elbo\n1,2.5,-3\n2,1.5,\n3,0.5,-1\n")
    return folder / "metrics.csv"


def read_log(path: Path) -> object:
    """Read a log as a report does, and draw it."""
    rows = ReportedRun(RunFolder(path.parent), "a", preset("tiny"), None, "").metrics()
    return [(row["step"], row.get("loss")) for row in rows]


def _config(folder: Path) -> Path:
    (folder / "config.yaml").write_text(to_yaml(preset("tiny", "mulmon")))
    return folder / "config.yaml"


TARGETS = {
    "CLE-MV index": Target(lambda f: _clevr_mv(f) / "clevr_mv_train.json", lambda p: read_clevr_mv(p.parent)),
    "CLE-MV npz": Target(
        lambda f: _clevr_mv(f) / "data" / "CLEVR_train_000000.npy", lambda p: read_clevr_mv(p.parents[1])
    ),
    "CLE-MV structured array": Target(_structured, lambda p: read_clevr_mv(p.parents[1])),
    "TFRecords": Target(_tfrecords, read_source),
    "TFRecords, zlib": Target(_zlib, read_source),
    "TFRecords, plain": Target(_tfrecords, read_source, unpack=gzip.decompress),
    "tf.train.Example": Target(_tfrecords, read_source, repair=_reframe, unpack=_first_record),
    "object-centric-library": Target(_hdf5_layout(lambda p: formats.object_centric_library(p, 3, 3)), read_source),
    "EfficientMORL": Target(_hdf5_layout(lambda p: formats.efficient_morl(p, {"train": 2, "test": 1})), read_source),
    "file of scenes": Target(_scene_file, lambda p: (verify(p), read_scene_file(p, "train"))),
    **{
        f"image {suffix}": Target(_image(suffix), lambda p: read_source(p.parent))
        for suffix in (".png", ".jpg", ".bmp", ".webp", ".gif", ".tif")
    },
    "mask": Target(_mask, lambda p: read_source(p.parents[1])),
    **{f"mesh {suffix}": Target(_mesh(suffix), lambda p: load_meshes(p.parent)) for suffix in (".obj", ".ply", ".stl")},
    "checkpoint": Target(_checkpoint, load_checkpoint, CheckpointError),
    "weights": Target(_weights, load_weights, CheckpointError),
    "configuration": Target(_config, lambda p: from_yaml(p.read_text(encoding="utf-8", errors="replace")), ConfigError),
    "NetCDF": Target(_netcdf, read),
    "summary": Target(_summary, lambda p: RunFolder(p.parent).summary(), SummaryError),
    "calls": Target(_calls, read_environment, CheckpointError),
    "log": Target(_log, read_log, Missing),
}

HOSTILE: list[Any] = [
    *(None, True, "", "text", "\x1b[2J", [], {}, [[]], [None], {"a": {"b": [1]}}, "x" * 5000, [1] * 5000),
    *(0, -1, 3, 1.5, 2**31, 2**63, 10**13, 10**400, -(10**400), 1e300, -1e300, 1e-320),
    *(float("inf"), float("nan"), [10**12], [-1], [2**40, 2**40], "1e12", "0x10", "1:30:00", "2001-01-01"),
]
"""Values to put in the place of others."""


def replace_values(content: Any, rng: np.random.Generator) -> Any:
    """Put hostile values in the place of one to three others, anywhere in nested lists and dictionaries."""
    for _ in range(rng.integers(1, 4)):
        place, key = None, None
        inner = content
        while isinstance(inner, dict | list) and inner and (place is None or rng.random() < 0.7):
            keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            place, key = inner, keys[int(rng.integers(len(keys)))]
            inner = place[key]
        value = HOSTILE[int(rng.integers(len(HOSTILE)))]
        if place is None:
            content = value
        else:
            place[key] = copy.deepcopy(value)
    return content


def _json_values(content: bytes, rng: np.random.Generator) -> bytes:
    return json.dumps(replace_values(json.loads(content), rng)).encode()


def _yaml_values(content: bytes, rng: np.random.Generator) -> bytes:
    return yaml.safe_dump(replace_values(yaml.safe_load(content), rng)).encode()


def _checkpoint_values(content: bytes, rng: np.random.Generator) -> bytes:
    changed, buffer = replace_values(torch.load(io.BytesIO(content), weights_only=True), rng), io.BytesIO()
    torch.save(changed, buffer)
    return buffer.getvalue()


def build(path: Path) -> object:
    """Read a configuration and build what it describes."""
    return build_guide(from_yaml(path.read_text(encoding="utf-8")))


TARGETS |= {
    "configuration, values": Target(_config, build, CompvaeError, damage=_yaml_values),
    "checkpoint, values": TARGETS["checkpoint"]._replace(damage=_checkpoint_values),
    "summary, values": TARGETS["summary"]._replace(damage=_json_values),
    "calls, values": TARGETS["calls"]._replace(damage=_json_values),
}


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Damage bytes in one to three ways: flip bits, overwrite bytes, make numbers huge, cut, double or move parts."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        if not data:
            break
        start = int(rng.integers(0, len(data)))
        length = int(min(2 ** rng.integers(0, 10), len(data) - start))
        stop = start + length
        kind = rng.integers(0, 8)
        if kind == 0:
            data[start] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            data[start:stop] = rng.bytes(length)
        elif kind == 2:
            data[start:stop] = bytes([int(rng.choice([0, 255, 127, 128]))]) * length
        elif kind == 3:
            number = 2 ** int(rng.choice([31, 32, 62, 63, 64])) - 1
            data[start : start + 8] = number.to_bytes(8, "little" if rng.random() < 0.5 else "big")
        elif kind == 4:
            del data[start:]
        elif kind == 5:
            del data[start:stop]
        elif kind == 6:
            data[start:start] = data[start:stop]
        else:
            digits = b"9" * int(rng.integers(1, 25))
            data[start : start + len(digits)] = digits
    return bytes(data)


def outcome(read: Callable[[], object], error: type[Exception]) -> str:
    """The outcome of a reader in a separate process: "read", "refused", or something that it must not do."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        said = ""
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
            read()
            said = "read"
        except error:
            said = "refused"
        except BaseException:
            said = traceback.format_exc(limit=-4)
        finally:
            os.write(send, said.encode()[:4000])
            os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        if not select.select([pipe], [], [], WALL_SECONDS)[0]:
            os.kill(child, signal.SIGKILL)
        said = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return said if os.WIFEXITED(status) and said else f"ended by signal {os.WTERMSIG(status)}"


def fuzz(name: str, inputs: int, seed: int = 0, keep: Path | None = None) -> Counter[str]:
    """Read some number of damaged files; returns the counts of outcomes. Inputs with a bad outcome are kept."""
    target = TARGETS[name]
    rng = np.random.default_rng((seed, sum(name.encode())))
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = target.make(Path(folder))
        sound = target.unpack(path.read_bytes())
        path.write_bytes(target.repair(sound))
        if (first := outcome(lambda: target.read(path), target.error)) != "read":
            raise AssertionError(f"{name}: expected the sound file to be read, but: {first}")
        damage = target.damage or mutate
        for number in range(inputs):
            path.write_bytes(target.repair(damage(sound, rng)))
            result = outcome(lambda: target.read(path), target.error)
            outcomes[result] += 1
            if result not in ("read", "refused") and keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{name.replace(' ', '_')}-{seed}-{number}{path.suffix}").write_bytes(path.read_bytes())
    return outcomes


def main() -> int:
    """Fuzz all readers, or those named, and print the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1000, help="damaged files for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files with a bad outcome")
    parser.add_argument("--only", nargs="*", default=list(TARGETS), help="names of readers")
    args = parser.parse_args()
    bad = 0
    for name in args.only:
        outcomes = fuzz(name, args.inputs, args.seed, args.keep)
        worse = {what: count for what, count in outcomes.items() if what not in ("read", "refused")}
        bad += sum(worse.values())
        print(f"{name}: {args.inputs} inputs, {outcomes['read']} read, {outcomes['refused']} refused", flush=True)
        for what, count in worse.items():
            print(f"  {count} x {what}", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
