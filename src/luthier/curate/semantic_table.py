"""Static embeddings: a vector for each token, and for a text their weighted mean. No network, no model to run.

Three kinds of folder can be opened (`open_table`):

- a table that `distill` or model2vec wrote: `embeddings`, and where there are `weights` and `mapping`;
- a sentence-transformers folder with static embeddings;
- any other model's folder, whose input embedding is turned into a table. That needs nothing but the file, and it is the
  poorest of the three: a language model's input embedding knows words that are used alike, less so what is meant.

A table is made of raw vectors (`make_table`) in three steps, each with the frequency of tokens in mind, which is taken
from Zipf's law, 1 / rank, since vocabularies are in order of frequency (as model2vec does, Minish Lab 2024). The vector
that an average text would have is taken away. Of the principal components the first D / 100 are taken away and the
next ones kept (all-but-the-top; Mu and Viswanath 2018). Each token weighs a / (a + p), so that frequent ones count
little (SIF; Arora, Liang, Ma 2017). Without the first two steps any two texts have a cosine of about 0.9 with a
language model's embedding.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from luthier.core.errors import DataError
from luthier.core.files import atomic_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DIMENSIONS: Final = 256
SIF: Final = 1e-4  # a
CHARACTERS: Final = 4096  # of a text that are looked at
_CHUNK: Final = 256  # texts at a time
_TABLES = ("embeddings", "embedding.weight")
_INPUTS = (
    "model.embed_tokens.weight", "embeddings.word_embeddings.weight", "bert.embeddings.word_embeddings.weight",
    "roberta.embeddings.word_embeddings.weight", "transformer.wte.weight", "wte.weight", "shared.weight",
)  # fmt: skip
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I8": "|i1", "U8": "|u1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
_FIX = "give a folder of static embeddings: model2vec, sentence-transformers (static), or a model on disk"


@dataclass(frozen=True)
class StaticTable:
    """Vectors of tokens, float32 (V, d), weights already in them, and the tokenizer they belong to."""

    vectors: np.ndarray
    tokenizer: "Tokenizer"
    skip: int | None = None  # token that stands for what the vocabulary lacks

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts, float32 (n, d); zeros for a text without a known token.

        Only the first `CHARACTERS` of a text are looked at.
        """
        made = np.zeros((len(texts), self.vectors.shape[1]), np.float32)
        for start in range(0, len(texts), _CHUNK):
            part = [text[:CHARACTERS].encode("utf-8", "replace").decode() for text in texts[start : start + _CHUNK]]
            ids = [
                [token for token in encoding.ids if token != self.skip]
                for encoding in self.tokenizer.encode_batch_fast(part, add_special_tokens=False)
            ]
            for index, tokens in enumerate(ids, start):
                if tokens:
                    made[index] = self.vectors[tokens].mean(0)
        made /= np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12)
        return made


def open_table(folder: Path) -> StaticTable:
    """Open a folder of static embeddings, or make a table of a model's input embedding.

    Raises:
        DataError: there is no tokenizer.json, no embedding, or they do not fit each other.
    """
    from tokenizers import Tokenizer

    inside = folder / "0_StaticEmbedding"
    root = inside if (inside / "tokenizer.json").is_file() else folder
    if not (root / "tokenizer.json").is_file():
        raise DataError("no tokenizer.json in it", where=str(folder), fix=_FIX)
    tokenizer = Tokenizer.from_file(str(root / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    files = _files(root)
    name = next((name for name in (*_TABLES, *_INPUTS) if name in files), None)
    if name is None:
        raise DataError("no embedding in its safetensors files", where=str(folder), fix=_FIX)
    vectors = _read(files[name], name).astype(np.float32)
    if vectors.ndim != 2:
        raise DataError(f"{name} is no matrix", where=str(files[name]), fix=_FIX)
    if name in _INPUTS:
        vectors = make_table(vectors)
    elif "mapping" in files:
        vectors = vectors[_read(files["mapping"], "mapping")]
    if "weights" in files and name not in _INPUTS:
        vectors = vectors * _read(files["weights"], "weights").astype(np.float32)[:, None]
    if len(vectors) < tokenizer.get_vocab_size():
        what = f"{len(vectors):,} vectors for a vocabulary of {tokenizer.get_vocab_size():,}"
        raise DataError(what, where=str(folder), fix="the tokenizer belongs to another model: get the folder again")
    return StaticTable(np.ascontiguousarray(vectors), tokenizer, _unknown(tokenizer))


def make_table(vectors: np.ndarray, *, dimensions: int = DIMENSIONS) -> np.ndarray:
    """Raw vectors of tokens in order of frequency (V, D) → a table (V, dimensions at most), float32, weights in it."""
    frequency = 1 / np.arange(1, len(vectors) + 1)
    frequency /= frequency.sum()
    weights = SIF / (SIF + frequency)
    share = frequency * weights / (frequency @ weights)  # of a token in the vector of an average text
    centred = vectors - (share @ vectors).astype(np.float32)
    scaled = centred * np.sqrt(share).astype(np.float32)[:, None]
    _, axes = np.linalg.eigh((scaled.T @ scaled).astype(np.float64))
    top = vectors.shape[1] // 100
    axes = axes[:, ::-1][:, top : top + dimensions]
    # The sign of an axis is arbitrary. Fixing it changes no cosine and makes tables of two machines alike.
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    return np.ascontiguousarray((centred @ axes.astype(np.float32)) * weights[:, None], np.float32)


def distill(encode: Callable[[Sequence[str]], np.ndarray], tokenizer: "Tokenizer", folder: Path) -> StaticTable:
    """Make a table of an encoder, by embedding each token of its vocabulary alone, and write it in model2vec's layout.

    Args:
        encode: texts → float32 (n, D); runs the encoder, wherever it runs.
        tokenizer: the encoder's.
        folder: to be made.
    """
    # "##ing" is how a vocabulary writes "ing" inside of a word. As a text it would be two signs more.
    prefix: str = json.loads(tokenizer.to_str())["model"].get("continuing_subword_prefix") or ""
    names = [
        tokenizer.decode([token]) or (tokenizer.id_to_token(token) or "") for token in range(tokenizer.get_vocab_size())
    ]
    texts = [name.removeprefix(prefix) or name for name in names]
    table = StaticTable(make_table(np.asarray(encode(texts), np.float32)), tokenizer, _unknown(tokenizer))
    save_table(table, folder)
    return table


def save_table(table: StaticTable, folder: Path) -> None:
    """Write a table in model2vec's layout, to a folder that is made."""
    from safetensors.numpy import save_file

    with atomic_folder(folder) as made:
        save_file({"embeddings": table.vectors}, made / "model.safetensors")
        table.tokenizer.save(str(made / "tokenizer.json"))
        config = {"model_type": "model2vec", "hidden_dim": table.vectors.shape[1], "normalize": True}
        (made / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def _unknown(tokenizer: "Tokenizer") -> int | None:
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    if model.get("unk_token"):
        return tokenizer.token_to_id(model["unk_token"])
    return model.get("unk_id")


def _files(root: Path) -> dict[str, Path]:
    """Tensor name → file."""
    made: dict[str, Path] = {}
    for file in sorted(root.glob("*.safetensors")):
        made |= {name: file for name in _header(file)[0] if name != "__metadata__"}
    return made


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where its data begins."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= size - 8:
            raise DataError("no safetensors file, or cut off", where=str(file), fix="get the folder again")
        try:
            return json.loads(stream.read(length)), 8 + length
        except ValueError:
            raise DataError("damaged header", where=str(file), fix="get the folder again") from None


def _read(file: Path, name: str) -> np.ndarray:
    """A tensor. bfloat16, which numpy lacks, comes as float32."""
    header, begin = _header(file)
    item = header[name]
    start, stop = item["data_offsets"]
    if begin + stop > file.stat().st_size:
        raise DataError("cut off", where=str(file), fix="get the folder again")
    with file.open("rb") as stream:
        stream.seek(begin + start)
        data = stream.read(stop - start)
    if item["dtype"] == "BF16":
        values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif item["dtype"] in _DTYPES:
        values = np.frombuffer(data, _DTYPES[item["dtype"]])
    else:
        raise DataError(f"{name} has the number format {item['dtype']}", where=str(file), fix=_FIX)
    return values.reshape(item["shape"])
