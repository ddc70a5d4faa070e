"""Weights to share: those read are those written, and files by others do no harm."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pyro_compvae.runs.checkpoint import CheckpointError
from pyro_compvae.runs.weights import load_weights, save_weights

WEIGHTS = {
    "a": torch.randn(3, 2, 4, 4).to(memory_format=torch.channels_last),
    "b.c": torch.arange(3),
    "d": torch.ones(()),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "model.safetensors"
    save_weights(file, "guide: monet\n", 7, WEIGHTS)
    return file


def test_weights_come_back_bit_for_bit(path: Path) -> None:
    content = load_weights(path)
    assert (content["config"], content["step"]) == ("guide: monet\n", 7)
    assert content["guide"].keys() == WEIGHTS.keys()
    for name, value in WEIGHTS.items():
        assert content["guide"][name].dtype == value.dtype
        assert torch.equal(content["guide"][name], value)
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no temporary file is left"


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_files_cut_short_are_named(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"model.safetensors: expected a safetensors file, .* get it again"):
        load_weights(path)


class Malicious:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("unpickled"),))


def test_nothing_is_unpickled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    for content in (pickle.dumps(Malicious()), None):
        if content is None:
            torch.save({"extra": Malicious()}, path)
        else:
            path.write_bytes(content)
        with pytest.raises(CheckpointError, match="expected a safetensors file"):
            load_weights(path)
    assert not Path("unpickled").exists()


@pytest.mark.parametrize(
    "header",
    [
        b"not JSON",
        b"[]",
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4000000000]}}',  # beyond the file
        b'{"a":{"dtype":"F32","shape":[9999999999,9999999999],"data_offsets":[0,8]}}',  # overflows
        b'{"a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}',
        b'{"__metadata__":{"pyro_compvae":1}}',  # no text
    ],
)
def test_headers_that_lie_are_refused(path: Path, header: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(CheckpointError, match="expected a safetensors file"):
        load_weights(path)
    path.write_bytes(struct.pack("<Q", 2**62) + header)  # a header longer than any memory
    with pytest.raises(CheckpointError, match="expected a safetensors file"):
        load_weights(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "format 1, got those of another program"),
        ({"format": "pt"}, "format 1, got those of another program"),
        ({"pyro_compvae": "2", "step": "7", "config": ""}, r"format 1, got format 2\. Export the run again"),
        ({"pyro_compvae": "1", "config": ""}, "a number of steps in the metadata, got .* step ''"),
        ({"pyro_compvae": "1", "step": "-7", "config": ""}, "step '-7'"),
        ({"pyro_compvae": "1", "step": "7"}, r"expected a configuration .* got \['pyro_compvae', 'step'\]"),
    ],
)
def test_files_of_other_programs_are_named(path: Path, metadata: dict[str, str] | None, message: str) -> None:
    save_file({"weight": torch.zeros(2)}, path, metadata)
    with pytest.raises(CheckpointError, match=message):
        load_weights(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model.safetensors: expected the weights of an exported run, found no"):
        load_weights(tmp_path / "model.safetensors")


def test_more_empty_tensors_than_any_run_has(path: Path) -> None:
    entry = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = ("{" + ",".join(f'"t{i}":{entry}' for i in range(30_000)) + "}").encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match=r"its header has \d+ bytes, more than 1048576"):
        load_weights(path)


def test_a_step_of_more_digits_than_any_run_has(path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, path, {"pyro_compvae": "1", "config": "", "step": "9" * 5000})
    with pytest.raises(CheckpointError, match="expected a configuration and a number of steps") as caught:
        load_weights(path)
    assert len(str(caught.value)) < 1000
