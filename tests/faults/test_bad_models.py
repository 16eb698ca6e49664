"""Damaged, cut and hostile model files: every one is refused with a ModelError that names the file."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers_store import write_folder, write_gguf
from luthier.core.errors import ModelError
from luthier.models.folder import check_model_folder, read_header
from luthier.models.gguf import convert_gguf
from luthier.models.gguf_file import GgufFile
from luthier.models.store import resolve_model

Header = dict[str, Any]


def rewritten(file: Path, change: Callable[[Header], object], tail: bytes | None = None) -> None:
    """Change the JSON header of a safetensors file; the data stays."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    result = change(header)
    text = json.dumps(header if result is None else result).encode() if not isinstance(result, bytes) else result
    file.write_bytes(len(text).to_bytes(8, "little") + text + (data[8 + length :] if tail is None else tail))


def set_offsets(name: str, begin: object, end: object) -> Callable[[Header], None]:
    def change(header: Header) -> None:
        header[name]["data_offsets"] = [begin, end]

    return change


def set_shape(shape: object) -> Callable[[Header], None]:
    def change(header: Header) -> None:
        header["w1"]["shape"] = shape

    return change


# write_folder: b1 is float32 (4,), bytes 0..16; w1 is bfloat16 (4, 8), bytes 16..80
BAD_HEADERS: dict[str, Callable[[Header], object]] = {
    "overlap": set_offsets("w1", 0, 64),
    "gap": set_offsets("w1", 24, 88),
    "past the end": set_offsets("w1", 16, 10**6),
    "backwards": set_offsets("w1", 80, 16),
    "negative": set_offsets("w1", -48, 16),
    "not a number": set_offsets("w1", "16", 80),
    "true as a number": set_offsets("b1", False, 16),
    "float": set_offsets("w1", 16.0, 80.0),
    "beyond 64 bits": set_offsets("w1", 16, 2**64 + 80),
    "shape whose product wraps to 32 in 64 bits": set_shape([2**32, 2**32, 32]),
    "shape with a negative size": set_shape([-4, -8]),
    "shape of another size": set_shape([4, 9]),
    "shape that is no list": set_shape(32),
    "unknown dtype": lambda header: header["w1"].update(dtype="Q4"),
    "missing dtype": lambda header: header["w1"].pop("dtype"),
    "missing tensor data": lambda header: header.pop("w1") and None,
    "entry is no object": lambda header: header.update(w1=3),
    "list": lambda header: [header],
    "not JSON": lambda header: b"{oops",
    "not UTF-8": lambda header: b'{"\xff": 1}',
    "deeply nested": lambda header: b"[" * 100_000,
    "a name twice": lambda header: (json.dumps(header)[:-1] + "," + json.dumps(header)[1:]).encode(),
}


@pytest.mark.parametrize("fault", BAD_HEADERS)
def test_bad_safetensors_header(tmp_path: Path, fault: str) -> None:
    folder = write_folder(tmp_path / "m")
    check_model_folder(folder)
    rewritten(folder / "model.safetensors", BAD_HEADERS[fault])
    with pytest.raises(ModelError, match=r"model\.safetensors: damaged or cut short"):
        check_model_folder(folder)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 100, -1])
def test_cut_safetensors(tmp_path: Path, keep: int) -> None:
    file = write_folder(tmp_path / "m") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match="damaged or cut short"):
        resolve_model(str(file.parent))


def test_a_gap_between_tensors(tmp_path: Path) -> None:
    file = write_folder(tmp_path / "m") / "model.safetensors"
    rewritten(file, set_offsets("w1", 24, 88), tail=b"\0" * 88)
    with pytest.raises(ModelError, match="should begin at byte 16"):
        read_header(file)


def test_longer_safetensors_and_absurd_header_length(tmp_path: Path) -> None:
    file = write_folder(tmp_path / "m") / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole + b"\0")
    with pytest.raises(ModelError, match="the file has"):
        read_header(file)
    for length in (2**64 - 1, 2**63, 200_000_000, len(whole) - 7):
        file.write_bytes(length.to_bytes(8, "little") + whole[8:])
        with pytest.raises(ModelError, match="its header should be"):
            read_header(file)


def test_random_damage_to_a_safetensors_header(tmp_path: Path) -> None:
    """Either the damage is noticed, or the header still describes the file exactly."""
    file = write_folder(tmp_path / "m") / "model.safetensors"
    whole = file.read_bytes()
    draw = random.Random(0)
    refused = 0
    for _ in range(500):
        data = bytearray(whole)
        data[draw.randrange(len(data) - 80)] = draw.randrange(256)
        file.write_bytes(data)
        try:
            assert sum(info.bytes for info in read_header(file).values()) == 80
        except ModelError:
            refused += 1
    assert refused > 250


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda m: (m / "model-00002-of-00002.safetensors").unlink(),
            r"shard model-00002-of-00002\.safetensors is missing",
        ),
        (lambda m: (m / "config.json").unlink(), r"config\.json is missing"),
        (lambda m: (m / "config.json").write_text("{"), r"config\.json: not valid JSON"),
        (lambda m: (m / "config.json").write_bytes(b"\xff\xfe"), r"config\.json: not valid JSON"),
        (lambda m: (m / "config.json").write_text("[" * 100_000), r"config\.json: not valid JSON"),
        (lambda m: (m / "config.json").write_text("[]"), "a JSON object is needed"),
        (lambda m: (m / "config.json").write_text("{}"), '"model_type"'),
        (lambda m: (m / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
        (lambda m: (m / "model.safetensors.index.json").write_text("{}"), '"weight_map"'),
        (lambda m: index(m, {"w1": "../m/model-00001-of-00002.safetensors"}), "is not the name of a safetensors file"),
        (lambda m: index(m, {"w1": "config.json"}), "is not the name of a safetensors file"),
        (lambda m: index(m, {"w9": "model-00001-of-00002.safetensors"}), "tensor w9 is not here"),
        (lambda m: twice(m), "tensor b1 is also in model-00001-of-00002"),
    ],
)
def test_bad_folder(tmp_path: Path, change: Callable[[Path], object], words: str) -> None:
    folder = write_folder(tmp_path / "m", shards=2)
    change(folder)
    with pytest.raises(ModelError, match=words) as error:
        check_model_folder(folder)
    assert str(folder) in error.value.where and error.value.fix


def index(folder: Path, names: dict[str, str]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def twice(folder: Path) -> None:
    first, second = sorted(folder.glob("*.safetensors"))
    second.write_bytes(first.read_bytes())


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    weights = folder / "model.safetensors"
    weights.rename(folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="an adapter, not a model"):
        check_model_folder(folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors"):
        check_model_folder(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ModelError, match=r"pickles \(pytorch_model\.bin\)") as error:
        check_model_folder(folder)
    assert "weights_only=True" in error.value.fix


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "has only 0 bytes"),
        (b"GGUF", "has only 4 bytes"),
        (b"PK\3\4" + b"\0" * 40, "not a GGUF file"),
        (b"GGUF" + (1).to_bytes(4, "little") + b"\0" * 40, "version 1"),
        (b"GGUF" + (3).to_bytes(4, "big") + b"\0" * 40, "big-endian"),
        (b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 16, "entries are announced"),
        (b"GGUF" + (3).to_bytes(4, "little") + (2**60).to_bytes(8, "little") + b"\0" * 8, "entries are announced"),
    ],
)
def test_not_a_gguf(tmp_path: Path, head: bytes, words: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(head)
    with pytest.raises(ModelError, match=words) as error:
        GgufFile(path)
    assert "m.gguf" in error.value.where and error.value.fix


@pytest.fixture(scope="module")
def whole_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "whole.gguf").read_bytes()


def test_cut_gguf(tmp_path: Path, whole_gguf: bytes) -> None:
    path = tmp_path / "m.gguf"
    draw = random.Random(0)
    for keep in [24, 25, len(whole_gguf) - 1, *(draw.randrange(24, len(whole_gguf)) for _ in range(60))]:
        path.write_bytes(whole_gguf[:keep])
        with pytest.raises(ModelError, match="damaged or cut short"):
            GgufFile(path)


def test_random_damage_to_a_gguf_header(tmp_path: Path, whole_gguf: bytes) -> None:
    """Damage is refused as a ModelError or does no harm; it never ends in another error or in endless work."""
    path = tmp_path / "m.gguf"
    path.write_bytes(whole_gguf)
    first = min(tensor.offset for tensor in GgufFile(path).tensors.values())
    draw = random.Random(0)
    refused = 0
    for number in range(400):
        data = bytearray(whole_gguf)
        for _ in range(draw.randrange(1, 4)):
            data[draw.randrange(first)] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])
        path.write_bytes(data)
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            convert_gguf(path, folder, lambda text: None)
        except ModelError:
            refused += 1
    assert refused > 100
