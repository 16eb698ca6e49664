"""What a model folder on disk holds, read from `config.json` and the safetensors headers alone.

Nothing is loaded and torch is not needed: `luthier check` looks here before anything big happens.
The safetensors layout is https://huggingface.co/docs/safetensors/index#format: eight bytes of header length N,
N bytes of JSON {"name": {"dtype", "shape", "data_offsets": [begin, end]}}, then the data.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000  # the same limit as the safetensors library

# safetensors dtype -> (plain name, bits an element)
DTYPES = {
    "BOOL": ("bool", 8),
    "F4": ("float4", 4),
    "F6_E2M3": ("float6_e2m3", 6),
    "F6_E3M2": ("float6_e3m2", 6),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E4M3": ("float8_e4m3", 8),
    "F8_E8M0": ("float8_e8m0", 8),
    "I16": ("int16", 16),
    "U16": ("uint16", 16),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "I32": ("int32", 32),
    "U32": ("uint32", 32),
    "F32": ("float32", 32),
    "C64": ("complex64", 64),
    "F64": ("float64", 64),
    "I64": ("int64", 64),
    "U64": ("uint64", 64),
}
PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_COPY_AGAIN = "the copy is damaged: fetch or copy this file again"


@dataclass(frozen=True)
class ModelFacts:
    """A model folder in six facts.

    Attributes:
        architecture: first name in config.json's "architectures", "" where it has none.
        model_type: config.json's "model_type".
        parameters: elements of all weight tensors (a tied head counts once).
        bytes: bytes of all weight tensors.
        tied: the output head is the input embedding.
        dtype: the dtype that holds most of the bytes, e.g. "bfloat16".
    """

    architecture: str
    model_type: str
    parameters: int
    bytes: int
    tied: bool
    dtype: str


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a safetensors file: dtype as written there, shape, bytes."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int


def check_model_folder(path: Path) -> ModelFacts:
    """Check that `path` is a whole model folder and say what it holds.

    Every shard's offsets are checked against its size, so a download that stopped half-way is found here.

    Raises:
        ModelError: config.json, weights, a shard or tokenizer.json is missing or damaged; the file is named.
    """
    config = read_config(path)
    if not (path / "tokenizer.json").is_file():
        _raise_no_tokenizer(path)
    tensors = read_headers(path)
    sizes: Counter[str] = Counter()
    for info in tensors.values():
        sizes[info.dtype] += info.bytes
    architectures = config.get("architectures")
    tied = config.get("tie_word_embeddings")
    return ModelFacts(
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "",
        model_type=config["model_type"],
        parameters=sum(math.prod(info.shape) for info in tensors.values()),
        bytes=sum(sizes.values()),
        tied=tied if isinstance(tied, bool) else not any(name.endswith("lm_head.weight") for name in tensors),
        dtype=DTYPES[sizes.most_common(1)[0][0]][0],
    )


def read_config(path: Path) -> dict[str, Any]:
    """config.json of the folder `path`, an object with a "model_type".

    Raises:
        ModelError: there is none, or it is not such an object.
    """
    file = path / "config.json"
    if not file.is_file():
        raise ModelError("not a model folder: config.json is missing", where=str(path), fix=_folder_fix(path))
    config = read_object(file)
    if not isinstance(config.get("model_type"), str):
        raise ModelError('config.json has no "model_type"', where=str(file), fix=_COPY_AGAIN)
    return config


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in `file`.

    Raises:
        ModelError: it is not JSON, or not an object.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"not valid JSON ({error})", where=str(file), fix=_COPY_AGAIN) from None
    if not isinstance(value, dict):
        raise ModelError("a JSON object is needed here", where=str(file), fix=_COPY_AGAIN)
    return value


def shard_files(path: Path) -> list[Path]:
    """The safetensors files that hold the model's weights, sorted.

    With an index, exactly the files it names; without one, model.safetensors or every *.safetensors in the folder.

    Raises:
        ModelError: no weights, a shard of the index is missing, or only pickled weights are there.
    """
    return sorted({path / name for name in _weight_map(path).values()} or set(_loose_files(path)))


def read_headers(path: Path) -> dict[str, TensorInfo]:
    """Every weight tensor of the folder by name, each shard checked by `read_header`.

    Raises:
        ModelError: a file is missing or damaged, or two shards hold the same tensor.
    """
    tensors: dict[str, TensorInfo] = {}
    found_in: dict[str, str] = {}
    for file in shard_files(path):
        for name, info in read_header(file).items():
            if name in tensors:
                raise ModelError(f"tensor {name} is also in {found_in[name]}", where=str(file), fix=_mixed_fix(path))
            tensors[name], found_in[name] = info, file.name
    for name, shard in _weight_map(path).items():
        if found_in.get(name) != shard:
            raise ModelError(
                f"tensor {name} is not here, but {INDEX} says so", where=str(path / shard), fix=_COPY_AGAIN
            )
    if not tensors:
        raise ModelError("the weight files hold no tensors", where=str(path), fix=_COPY_AGAIN)
    return tensors


def read_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file. Offsets must cover the data without gap, overlap or rest.

    Raises:
        ModelError: the header or the file's size says that the file is damaged or cut short.
    """
    size = file.stat().st_size
    with file.open("rb") as handle:
        start = handle.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise _damaged(file, f"its header should be {length:,} bytes, the file has {size:,}")
        text = handle.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"its header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise _damaged(file, "its header is not an object")
    header.pop("__metadata__", None)
    tensors: dict[str, TensorInfo] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        begin, end, info = _tensor_info(file, name, entry)
        tensors[name] = info
        spans.append((begin, end, name))
    reached = 0
    for begin, end, name in sorted(spans):
        if begin != reached:
            raise _damaged(file, f"tensor {name} should begin at byte {reached:,} of the data, not {begin:,}")
        reached = end
    if 8 + length + reached != size:
        raise _damaged(file, f"its tensors need {8 + length + reached:,} bytes, the file has {size:,}")
    return tensors


def _tensor_info(file: Path, name: str, entry: object) -> tuple[int, int, TensorInfo]:
    """Begin, end and description of a header entry, all from plain Python integers, which cannot overflow."""
    if not isinstance(entry, dict):
        raise _damaged(file, f"tensor {name} has no description")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if dtype not in DTYPES:
        raise _damaged(file, f"tensor {name} has the unknown dtype {dtype!r}")
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _damaged(file, f"tensor {name} has a wrong shape or data_offsets")
    bits = math.prod(shape) * DTYPES[dtype][1]
    if bits != 8 * (offsets[1] - offsets[0]):
        raise _damaged(
            file, f"tensor {name} of shape {shape} needs {bits // 8:,} bytes, not {offsets[1] - offsets[0]:,}"
        )
    return offsets[0], offsets[1], TensorInfo(dtype, tuple(shape), bits // 8)


def _sizes(value: object) -> bool:
    """True for a list of whole numbers ≥ 0 (JSON's true is not one)."""
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a name twice")
    return dict(pairs)


def _damaged(file: Path, why: str) -> ModelError:
    return ModelError(f"damaged or cut short: {why}", where=str(file), fix=_COPY_AGAIN)


def _weight_map(path: Path) -> Mapping[str, str]:
    """tensor name -> file name of the index, empty where the folder has no index; every file checked to exist."""
    index = path / INDEX
    if not index.is_file() or (path / WEIGHTS).is_file():
        return {}
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ModelError('"weight_map" is missing or empty', where=str(index), fix=_COPY_AGAIN)
    for name in sorted(set(names.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"{name!r} is not the name of a safetensors file", where=str(index), fix=_COPY_AGAIN)
        if not (path / name).is_file():
            raise ModelError(
                f"the shard {name} is missing", where=str(path), fix="fetch or copy this file into the folder"
            )
    return names


def _loose_files(path: Path) -> list[Path]:
    """Weight files of a folder without an index."""
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    files = [file for file in sorted(path.glob("*.safetensors")) if file.name != "adapter_model.safetensors"]
    if files:
        return files
    if (path / "adapter_model.safetensors").is_file():
        what = "this folder holds an adapter, not a model"
        raise ModelError(what, where=str(path), fix="give the folder of the model that the adapter was made for")
    pickles = [file.name for file in sorted(path.iterdir()) if file.suffix in PICKLE_SUFFIXES]
    if pickles:
        raise pickle_error(str(path), pickles)
    raise ModelError("no *.safetensors in the folder", where=str(path), fix="fetch or copy the model's weights into it")


def pickle_error(where: str, names: list[str]) -> ModelError:
    """The refusal of pickled weights, with a way to convert them that does not run code."""
    return ModelError(
        f"the weights are pickles ({', '.join(names[:3])}), which can run code when opened; we read safetensors only",
        where=where,
        fix="ask the publisher for *.safetensors, or convert the tensors without running code in them:\n"
        "      python -c \"import torch, safetensors.torch as s; w = torch.load('pytorch_model.bin', weights_only=True,"
        " map_location='cpu'); s.save_file({k: v.clone().contiguous() for k, v in w.items()}, 'model.safetensors',"
        " {'format': 'pt'})\"",
    )


def _raise_no_tokenizer(path: Path) -> None:
    slow = [name for name in ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model") if (path / name).is_file()]
    if slow:
        fix = f"luthier model add {path}  (it makes tokenizer.json from {slow[0]})"
    else:
        fix = "copy tokenizer.json and tokenizer_config.json of the same model into the folder"
    raise ModelError("tokenizer.json is missing", where=str(path), fix=fix)


def _folder_fix(path: Path) -> str:
    if (path / "adapter_config.json").is_file():
        return "this is an adapter: give the folder of the model that it was made for"
    if path.is_dir() and any(path.glob("*.gguf")):
        return f"luthier model add {sorted(path.glob('*.gguf'))[0]}"
    return "give a folder with config.json, *.safetensors and tokenizer.json"


def _mixed_fix(path: Path) -> str:
    return f"the folder {path.name} mixes two models or a model twice: keep one set of *.safetensors"
