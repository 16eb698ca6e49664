"""The GGUF container: metadata and where each tensor's bytes lie, with every length checked against the file first.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The file is mapped, never read whole. The reader of
the `gguf` package trusts lengths that a damaged file gives it, so this one is ours; block formats come from `gguf`.
"""

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from luthier.core.errors import ModelError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMS = 4
_FETCH_AGAIN = "fetch or copy the file again"


@dataclass(frozen=True)
class GgufTensor:
    """One tensor: `shape` in row-major order (the file has it reversed), `offset` in bytes from the file's start."""

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    bytes: int


class GgufFile:
    """An opened .gguf file: `metadata` (key → Python value or list) and `tensors` (name → GgufTensor).

    Raises:
        ModelError: not a GGUF file, a version or byte order that we do not read, or damaged or cut short.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        if self.size < 24:
            raise self._damaged(f"it has only {self.size} bytes")
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            self._at = 0
            self.metadata, self.tensors = self._read_header()
        except UnicodeDecodeError:
            raise self._damaged(f"text near byte {self._at:,} is not UTF-8") from None

    def blocks(self, tensor: GgufTensor) -> np.ndarray:
        """The tensor's bytes as uint8 (rows, bytes a row), straight from the mapped file.

        A row is the last dimension; blocks of a quantised type never cross rows.
        """
        data = np.frombuffer(self._map, np.uint8, count=tensor.bytes, offset=tensor.offset)
        return data.reshape(math.prod(tensor.shape[:-1]), -1)

    def _read_header(self) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
        if self._take(4) != b"GGUF":
            raise ModelError("not a GGUF file", where=str(self.path), fix="give a .gguf file or a model folder")
        version = self._scalar("I")
        if version not in (2, 3):
            kind = "big-endian" if version and version & 0xFFFF == 0 else f"version {version}"
            what, fix = (
                f"a {kind} GGUF file; versions 2 and 3 are read",
                "convert the model again with a newer llama.cpp",
            )
            raise ModelError(what, where=str(self.path), fix=fix)
        tensor_count, pair_count = self._scalar("Q"), self._scalar("Q")
        metadata: dict[str, Any] = {}
        for _ in range(self._bounded(pair_count, 13)):
            key = self._string()
            if key in metadata:
                raise self._damaged(f"the key {key} is there twice")
            metadata[key] = self._value(self._scalar("I"))
        infos = [self._tensor_info() for _ in range(self._bounded(tensor_count, 24))]
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise self._damaged(f"general.alignment is {alignment!r}")
        data_start = -(-self._at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, kind, shape, offset in infos:
            if name in tensors:
                raise self._damaged(f"tensor {name} is there twice")
            tensors[name] = self._place(name, kind, shape, data_start + offset)
        return metadata, tensors

    def _place(self, name: str, kind: int, shape: tuple[int, ...], offset: int) -> GgufTensor:
        try:
            type_ = GGMLQuantizationType(kind)
        except ValueError:
            what, fix = f"tensor {name} has the unknown type {kind}", "update Luthier, or use another quantisation"
            raise ModelError(what, where=str(self.path), fix=fix) from None
        per_block, block_bytes = GGML_QUANT_SIZES[type_]
        if not shape or 0 in shape or shape[-1] % per_block:
            raise self._damaged(f"tensor {name} has the shape {list(shape)}, impossible for {type_.name}")
        size = math.prod(shape) // per_block * block_bytes
        if offset + size > self.size:
            raise self._damaged(f"tensor {name} ends at byte {offset + size:,}, the file at {self.size:,}")
        return GgufTensor(name, type_, shape, offset, size)

    def _tensor_info(self) -> tuple[str, int, tuple[int, ...], int]:
        name, count = self._string(), self._scalar("I")
        if count > _MAX_DIMS:
            raise self._damaged(f"tensor {name} has {count} dimensions")
        dims = tuple(self._scalar("Q") for _ in range(count))
        return name, self._scalar("I"), dims[::-1], self._scalar("Q")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            item, count = self._scalar("I"), self._scalar("Q")
            if item == _STRING:
                return [self._string() for _ in range(self._bounded(count, 8))]
            if item not in _SCALARS:
                raise self._damaged(f"an array of the unknown type {item} near byte {self._at:,}")
            width = struct.calcsize("<" + _SCALARS[item])
            return list(struct.unpack(f"<{count}{_SCALARS[item]}", self._take(self._bounded(count, width) * width)))
        if kind not in _SCALARS:
            raise self._damaged(f"a value of the unknown type {kind} near byte {self._at:,}")
        return self._scalar(_SCALARS[kind])

    def _scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))[0]

    def _string(self) -> str:
        return self._take(self._scalar("Q")).decode("utf-8")

    def _take(self, count: int) -> bytes:
        if count > self.size - self._at:
            raise self._damaged(f"{count:,} bytes are announced at byte {self._at:,}, the file has {self.size:,}")
        self._at += count
        return self._map[self._at - count : self._at]

    def _bounded(self, count: int, least_bytes: int) -> int:
        """`count`, after checking that so many items of at least `least_bytes` each fit into the rest of the file."""
        if count * least_bytes > self.size - self._at:
            raise self._damaged(f"{count:,} entries are announced at byte {self._at:,}, the file has {self.size:,}")
        return count

    def _damaged(self, why: str) -> ModelError:
        return ModelError(f"damaged or cut short: {why}", where=str(self.path), fix=_FETCH_AGAIN)
