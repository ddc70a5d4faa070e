"""TFRecord files of `tf.train.Example` messages, without TensorFlow."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from pyro_compvae.data.readers.zlib_file import ZlibFile, is_zlib
from pyro_compvae.data.records import DataError
from pyro_compvae.runs.files import check_opens

MAX_RECORD = 64 << 20
"""The largest record that is read, in bytes. A record of CLEVR with masks, the largest known, has 3 MiB."""

HEADER = 12
"""Bytes before the content of a record: its length, and the checksum of the length."""


GZIP = b"\x1f\x8b"
"""The first bytes of a gzip file."""


class Record(NamedTuple):
    """The features of one example: bytes, however they were divided into elements, and floating-point numbers."""

    octets: Mapping[str, NDArray[np.uint8]]
    floats: Mapping[str, NDArray[np.float32]]


def read_tfrecords(path: Path) -> Iterator[Record]:
    """The examples of a TFRecord file, compressed by gzip, by zlib or not, one by one.

    A record consists of its length, the length's checksum, the content, and the content's checksum (CRC-32C, rotated
    and offset). Nothing is allocated before the length has been checked, and nothing is parsed before its checksum has
    been checked.

    Raises:
        DataError: if the file is truncated, damaged, or no TFRecord file; the message names file and record.
    """
    check_opens(path, DataError)
    number = 0
    with _open(path) as file:
        while True:
            where = f"{path}: record {number}"
            try:
                content = _read_record(file, where)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise DataError(
                    f"{where}: expected sound gzip or zlib, got {error}. Download the file again."
                ) from error
            if content is None:
                return
            yield _parse(content, where)
            number += 1


def is_tfrecords(path: Path) -> bool:
    """Whether a file starts like TFRecords: with a record, or with the first bytes of gzip or zlib."""
    check_opens(path, DataError)
    with path.open("rb") as file:
        start = file.read(HEADER)
    return _is_header(start) or start[:2] == GZIP or is_zlib(start)


def _open(path: Path) -> IO[bytes]:
    """Open a file for reading what it holds once it is unpacked."""
    with path.open("rb") as file:
        start = file.read(HEADER)
    if not _is_header(start) and is_zlib(start):  # the length of a record may look like zlib, but has a checksum
        return io.BufferedReader(ZlibFile(path), 1 << 16)
    return cast(IO[bytes], gzip.open(path) if start[:2] == GZIP else path.open("rb"))


def _is_header(start: bytes) -> bool:
    return len(start) == HEADER and _checksum(start[:8]) == start[8:]


def _read_record(file: IO[bytes], where: str) -> bytes | None:
    header = file.read(HEADER)
    if not header:
        return None
    length = header[:8]
    if not _is_header(header):
        raise DataError(f"{where}: expected a TFRecord header, got {header!r}. Is the file whole, and TFRecords?")
    (size,) = struct.unpack("<Q", length)
    if size > MAX_RECORD:
        raise DataError(f"{where}: expected at most {MAX_RECORD >> 20} MiB in a record, got one of {size} bytes.")
    content = file.read(size + 4)
    if len(content) < size + 4:
        raise DataError(f"{where}: expected {size + 4} bytes, found {len(content)}. Download the file again.")
    if _checksum(content[:-4]) != content[-4:]:
        raise DataError(f"{where}: expected content that agrees with its checksum, got other. Download it again.")
    return content[:-4]


def _checksum(content: bytes) -> bytes:
    """The masked CRC-32C of TensorFlow."""
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _parse(content: bytes, where: str) -> Record:
    example: Any = EXAMPLE()
    try:
        example.ParseFromString(content)
    except DecodeError as error:
        raise DataError(f"{where}: expected a tf.train.Example, got other content ({error}).") from error
    octets, floats = {}, {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        if kind == "bytes_list":
            octets[name] = _octets(feature.bytes_list)
        elif kind == "float_list":
            floats[name] = np.array(feature.float_list.value, dtype=np.float32)
    return Record(octets, floats)


def _octets(bytes_list: Any) -> NDArray[np.uint8]:
    """Concatenate the elements of a list of bytes.

    A million elements of one byte each, as in multi_object_datasets, would be a million Python objects. In protobuf's
    own encoding each is a field's tag, the length 1 and the byte, which takes a tenth of the time to read.
    """
    encoded = np.frombuffer(bytes_list.SerializeToString(), dtype=np.uint8)
    if len(encoded) % 3 == 0:
        elements = encoded.reshape(-1, 3)
        if (elements[:, 0] == 0x0A).all() and (elements[:, 1] == 1).all():
            return elements[:, 2].copy()
    return np.frombuffer(b"".join(bytes_list.value), dtype=np.uint8)


def _example_class() -> type[Message]:
    file = text_format.Parse(EXAMPLE_PROTO, descriptor_pb2.FileDescriptorProto())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


EXAMPLE_PROTO = """
name: "pyro_compvae/example.proto"  package: "tensorflow"  syntax: "proto3"
message_type { name: "BytesList"  field { name: "value"  number: 1  type: TYPE_BYTES  label: LABEL_REPEATED } }
message_type { name: "FloatList"  field { name: "value"  number: 1  type: TYPE_FLOAT  label: LABEL_REPEATED } }
message_type { name: "Int64List"  field { name: "value"  number: 1  type: TYPE_INT64  label: LABEL_REPEATED } }
message_type {
  name: "Feature"
  oneof_decl { name: "kind" }
  field { name: "bytes_list"  number: 1  type: TYPE_MESSAGE  type_name: ".tensorflow.BytesList"  oneof_index: 0 }
  field { name: "float_list"  number: 2  type: TYPE_MESSAGE  type_name: ".tensorflow.FloatList"  oneof_index: 0 }
  field { name: "int64_list"  number: 3  type: TYPE_MESSAGE  type_name: ".tensorflow.Int64List"  oneof_index: 0 }
}
message_type {
  name: "Features"
  nested_type {
    name: "FeatureEntry"
    options { map_entry: true }
    field { name: "key"  number: 1  type: TYPE_STRING }
    field { name: "value"  number: 2  type: TYPE_MESSAGE  type_name: ".tensorflow.Feature" }
  }
  field {
    name: "feature"  number: 1  type: TYPE_MESSAGE  type_name: ".tensorflow.Features.FeatureEntry"
    label: LABEL_REPEATED
  }
}
message_type {
  name: "Example"
  field { name: "features"  number: 1  type: TYPE_MESSAGE  type_name: ".tensorflow.Features" }
}
"""
"""The message `tf.train.Example`, as defined by TensorFlow's example.proto and feature.proto."""

EXAMPLE = _example_class()
