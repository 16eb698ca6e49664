"""A .gguf file as a Hugging Face folder: weights dequantised to bf16, config, tokenizer, chat template.

Weights are read from the mapped file and written a few million elements at a time, so memory stays small whatever the
model's size. bf16 is written with numpy alone (round to nearest, ties to even); torch is not needed.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from luthier.core.errors import ModelError
from luthier.core.files import write_json
from luthier.models.folder import INDEX, WEIGHTS
from luthier.models.gguf_config import architecture, expected_shapes, model_config, tensor_names, unsupported
from luthier.models.gguf_file import GgufFile, GgufTensor
from luthier.models.gguf_tokenizer import write_tokenizer

SHARD_BYTES = 2_000_000_000
_ELEMENTS_AT_ONCE = 4_000_000


def bf16_bytes(path: Path) -> int:
    """Bytes that the weights of the file need in bf16.

    Raises:
        ModelError: the file is damaged.
    """
    return sum(2 * math.prod(tensor.shape) for tensor in GgufFile(path).tensors.values())


def convert_gguf(path: Path, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Write the model in the .gguf file `path` into the existing empty `folder` and return the file's metadata.

    Args:
        say: told once what is written.

    Raises:
        ModelError: the file is damaged, or the model, a tensor type or the tokenizer is one that we do not run. All of
            this is found before the first weight is written.
    """
    file = GgufFile(path)
    rotated = architecture(file).rotated_rows
    config = model_config(file)
    names = tensor_names(file, config["num_hidden_layers"])
    _check_tensors(file, names, expected_shapes(config, names))
    ids = write_tokenizer(file, folder)
    write_json(folder / "config.json", config | {key: value for key, value in ids.items() if value is not None})
    write_json(folder / "generation_config.json", {key: value for key, value in ids.items() if value is not None})
    total = sum(math.prod(file.tensors[name].shape) for name in names)
    say(f"writing {total / 1e6:,.0f} million parameters as bf16 ({2 * total / 1e9:,.2f} GB)")
    shards = _plan(file, names)
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = WEIGHTS if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        with (folder / name).open("wb") as out:
            _write_shard(out, file, {names[tensor]: file.tensors[tensor] for tensor in shard}, rotated, config)
        index |= {names[tensor]: name for tensor in shard}
    if len(shards) > 1:
        write_json(folder / INDEX, {"metadata": {"total_size": 2 * total}, "weight_map": index})
    return file.metadata


def _check_tensors(file: GgufFile, names: dict[str, str], shapes: dict[str, tuple[int, ...]]) -> None:
    for name, ours in names.items():
        tensor = file.tensors[name]
        if tensor.shape != shapes[ours]:
            what = f"tensor {name} has the shape {list(tensor.shape)}, its metadata asks for {list(shapes[ours])}"
            raise ModelError(what, where=str(file.path), fix="fetch or convert the file again")
    for kind in {file.tensors[name].type for name in names}:
        try:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError:
            raise unsupported(file, f"weights of the type {kind.name}") from None


def _plan(file: GgufFile, names: dict[str, str]) -> list[list[str]]:
    """GGUF tensor names shard by shard, each shard at most `SHARD_BYTES` unless one tensor alone is bigger."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name in names:
        size = 2 * math.prod(file.tensors[name].shape)
        if shards[-1] and filled + size > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _write_shard(
    out: BinaryIO, file: GgufFile, tensors: dict[str, GgufTensor], rotated: bool, config: dict[str, Any]
) -> None:
    """One safetensors file: header first (all sizes are known), then tensor after tensor."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + 2 * math.prod(tensor.shape)
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of eight
    out.write(len(text).to_bytes(8, "little") + text)
    for name, tensor in tensors.items():
        rows = file.blocks(tensor)
        if rotated and name.endswith(("q_proj.weight", "k_proj.weight")):
            rows = rows[_half_split_rows(len(rows), config["head_dim"])]
        for piece in _bf16_pieces(rows, tensor):
            out.write(piece)


def _half_split_rows(rows: int, head_size: int) -> np.ndarray:
    """Where Hugging Face's row r of q or k lies in llama.cpp's order.

    llama.cpp rotates neighbouring pairs (2i, 2i + 1) of a head, Hugging Face the pairs (i, i + K/2); the converter
    `LlamaModel.permute` interleaves the two halves of each head's rows, this undoes it.
    """
    order = np.arange(rows).reshape(-1, head_size // 2, 2)  # (heads, K/2, 2)
    return order.swapaxes(1, 2).reshape(-1)


def _bf16_pieces(rows: np.ndarray, tensor: GgufTensor) -> Iterator[bytes]:
    """The tensor in bf16, some rows at a time; `rows` is uint8 (rows, bytes a row)."""
    step = max(1, _ELEMENTS_AT_ONCE // tensor.shape[-1])
    for start in range(0, len(rows), step):
        part = np.ascontiguousarray(rows[start : start + step])
        if tensor.type is GGMLQuantizationType.BF16:
            yield part.tobytes()
        else:
            yield to_bf16(dequantize(part, tensor.type)).tobytes()


def to_bf16(values: np.ndarray) -> np.ndarray:
    """float32 → the bits of bfloat16 as little-endian uint16, rounded to nearest with ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    quiet = (bits >> 16) | 0x40
    return np.where(np.isnan(values), quiet, rounded).astype("<u2")
