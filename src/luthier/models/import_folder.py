"""A Hugging Face model folder becomes an entry of the store: weights, configs and tokenizer, and nothing else."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError
from luthier.core.paths import models_dir
from luthier.models.entries import StoreEntry, find_model, new_entry, require_disk
from luthier.models.folder import INDEX, read_config, read_headers, read_object, shard_files

COPIED = ("*.json", "*.jinja", "tokenizer.model", "vocab.txt", "merges.txt", "LICENSE*", "NOTICE*", "USE_POLICY*")
LEFT_OUT = ("*.safetensors.index.json", "*.bin.index.json", "adapter_*", "manifest.json", "trainer_state.json")
_LICENSE = re.compile(r"\A---\n(?:.*\n)*?license:[ \t]*([\w.+-]+)[ \t]*\n(?:.*\n)*?---", re.MULTILINE)


def import_folder(
    source: Path, name: str, say: Callable[[str], None], *, origin: str, license: str | None = None
) -> StoreEntry:
    """Copy the model in the folder `source` into the store as `name`; weights are hard-linked on the same disk.

    Only the weight files that the model uses are taken. A folder without tokenizer.json gets one made from its
    SentencePiece or vocabulary files. Code in the folder is neither copied nor run.

    Args:
        origin: the `source` of the manifest.
        license: the license's name, None to look into README.md.

    Raises:
        ModelError: the folder is not a whole model in safetensors, or the name is taken.
    """
    config = read_config(source)
    shards = shard_files(source)
    read_headers(source)
    small = [file for file in sorted(source.iterdir()) if file.is_file() and is_copied(file.name)]
    if "auto_map" in config:
        say("the folder asks for code of its own (auto_map); it is not copied and never runs")
    require_disk(sum(file.stat().st_size for file in small + [s for s in shards if not _same_disk(s)]))
    license = license if license is not None else _read_license(source)
    with new_entry(name, origin, {"license": license}) as folder:
        for shard in shards:
            _link_or_copy(shard, folder / shard.name)
        if len(shards) > 1 and (source / INDEX).is_file():
            shutil.copyfile(source / INDEX, folder / INDEX)
        for file in small:
            shutil.copyfile(file, folder / file.name)
        if not (folder / "tokenizer.json").is_file():
            say("making tokenizer.json from the tokenizer files of the folder")
            make_fast_tokenizer(folder)
    entry = find_model(name)
    assert entry is not None
    return entry


def is_copied(name: str) -> bool:
    """True for the names of small files that belong into the store."""
    return any(fnmatch(name, pattern) for pattern in COPIED) and not any(fnmatch(name, pattern) for pattern in LEFT_OUT)


def make_fast_tokenizer(folder: Path) -> None:
    """Write tokenizer.json into `folder`, converted by transformers from tokenizer.model or vocabulary files.

    Raises:
        ModelError: the folder has no tokenizer files, or transformers is not installed or cannot convert them.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.model", "vocab.json", "vocab.txt")):
        fix = "copy tokenizer.json and tokenizer_config.json of the same model into the folder"
        raise ModelError("tokenizer.json is missing", where=str(folder), fix=fix)
    fix = "pip install transformers sentencepiece, and add the model again; or copy a tokenizer.json into the folder"
    try:
        from transformers import AutoTokenizer
    except ImportError:
        what = "tokenizer.json is missing, and making one needs the package transformers"
        raise ModelError(what, where=str(folder), fix=fix) from None
    try:
        # The folder's own code never runs: trust_remote_code stays False, and no network is touched.
        tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, use_fast=True, trust_remote_code=False, local_files_only=True
        )
    except (ImportError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        what = f"transformers cannot read the tokenizer of this folder ({_first_line(error)})"
        raise ModelError(what, where=str(folder), fix=fix) from error
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer.save_pretrained(temporary)
        made = Path(temporary) / "tokenizer.json"
        if not made.is_file():
            raise ModelError("this tokenizer has no tokenizer.json form", where=str(folder), fix=fix)
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
            if (Path(temporary) / name).is_file() and not (folder / name).is_file():
                shutil.copyfile(Path(temporary) / name, folder / name)
    read_object(folder / "tokenizer.json")


def _link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the disk allows one, a copy elsewhere. Links of the Hugging Face cache are followed."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _same_disk(file: Path) -> bool:
    store = models_dir()
    store.mkdir(parents=True, exist_ok=True)
    return file.stat().st_dev == store.stat().st_dev


def _read_license(source: Path) -> str:
    """`license:` in the front matter of the model card, "" where there is none."""
    card = source / "README.md"
    if not card.is_file():
        return ""
    found = _LICENSE.match(card.read_text(encoding="utf-8", errors="replace")[:20_000].replace("\r\n", "\n"))
    return found[1] if found else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
