"""The folders of checkpoints: each whole or absent, verified before it is trusted, and set aside when it is broken.

A checkpoint is staged under a hidden name, every file is synced, the manifest is written last, and a rename makes it
one. The rename is the moment of the commit: before it the older checkpoints are what there is, and after the folder
above is synced the new one outlives a power cut. Nothing older is deleted before that.

The order is that of steps, which the name and the manifest both have; clocks have no say. Whoever writes here holds the
lock of the run's folder.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from luthier.core import disk
from luthier.core.disk import NO_SPACE, NoSpace
from luthier.core.errors import RunError
from luthier.core.events import EVENTS_FILE, read_events
from luthier.core.files import hash_json, make_folders, remove, remove_leftovers, temporary_name, write_new

FOLDER, MANIFEST, FORMAT = "checkpoints", "manifest.json", 2
RESERVE = 16 * 2**20  # bytes that stay free beside a checkpoint, for events and the report
REPLACED = ".replaced"  # ends the name of a checkpoint while another state of the same step takes its place
_NAME = re.compile(r"step-(\d{6,})(\.replaced)?")


def folder_of(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of `step` is or would be."""
    return run_dir / FOLDER / f"step-{step:06d}"


def step_of(folder: Path) -> int:
    """The step that a checkpoint's name has."""
    return int(folder.name.removeprefix("step-").removesuffix(REPLACED))


def checkpoints(run_dir: Path) -> list[Path]:
    """Checkpoint folders, whole or not, newest first."""
    found = [run_dir / FOLDER / name for name in disk.DISK.names(run_dir / FOLDER) if _NAME.fullmatch(name)]
    return sorted(found, key=lambda path: (step_of(path), not path.name.endswith(REPLACED)), reverse=True)


def manifest_bytes(content: Mapping[str, Any]) -> bytes:
    """A manifest with its own sha256 in it, so that a changed bit is seen in the manifest, too."""
    return (json.dumps({**content, "sha256": hash_json(content)}, indent=1, ensure_ascii=False) + "\n").encode()


def read_manifest(folder: Path) -> dict[str, Any] | str:
    """A checkpoint's manifest, or what is wrong with it, as half a sentence.

    Raises:
        RunError: it is whole, and of another version of the format.
    """
    try:
        data = disk.DISK.read(folder / MANIFEST)
        content = json.loads(data)
    except FileNotFoundError:
        return "it has no manifest"
    except OSError as error:
        return f"its manifest cannot be read ({error.strerror})"
    except ValueError:
        return "its manifest is damaged"
    if not isinstance(content, dict) or (content.get("format") != 1 and _resealed(content) != data):
        return "its manifest is damaged"
    if content["format"] != FORMAT:
        age = "a newer" if content["format"] > FORMAT else "an older"
        raise RunError(
            f"this checkpoint was written by {age} version of Luthier (format {content['format']}, not {FORMAT})",
            where=str(folder),
            fix="go on with the version that wrote it; it was not touched",
        )
    return content


def _resealed(content: dict[str, Any]) -> bytes:
    return manifest_bytes({name: value for name, value in content.items() if name != "sha256"})


def damage(folder: Path, *, contents: bool = True) -> str:
    """What is wrong with a checkpoint, as half a sentence; empty when every file is as the manifest says.

    Args:
        contents: compare every byte with its hash; otherwise only names and sizes.

    Raises:
        RunError: it was written by another version of Luthier.
    """
    manifest = read_manifest(folder)
    if isinstance(manifest, str):
        return manifest
    if manifest["step"] != step_of(folder):
        return f"it is named so, and holds step {manifest['step']}"
    for name, facts in manifest["files"].items():
        try:
            if (folder / name).stat().st_size != facts["size"]:
                return f"{name} is damaged"
            if contents:
                read_verified(folder, name, facts)
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        except RunError:
            return f"{name} is damaged"
    return ""


def read_verified(folder: Path, name: str, facts: Mapping[str, Any]) -> bytes:
    """A file of a checkpoint.

    Raises:
        RunError: it is not what the manifest says.
    """
    data = disk.DISK.read(folder / name)
    if len(data) != facts["size"] or hashlib.sha256(data).hexdigest() != facts["sha256"]:
        raise RunError(f"{name} is damaged", where=str(folder), fix="luthier train --resume takes an older checkpoint")
    return data


def commit(
    run_dir: Path, step: int, files: Mapping[str, bytes], more: Mapping[str, Any], spare: Collection[int]
) -> Path:
    """Write a checkpoint, unless the same one is there already; returns its folder.

    Args:
        more: what the manifest says beside format, step and files.
        spare: steps that are not deleted to make room.

    Raises:
        NoSpace: there is no room, even after what may be deleted is. Nothing is left half written.
        RunError: the disk refuses for another reason.
    """
    path = folder_of(run_dir, step)
    facts = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    manifest = manifest_bytes({"format": FORMAT, "step": step, "files": facts, **more})
    needed = int(1.2 * (sum(map(len, files.values())) + len(manifest))) + RESERVE
    try:
        if path.exists() and not damage(path) and disk.DISK.read(path / MANIFEST) == manifest:
            return path
        _make_room(run_dir, needed, spare)
        make_folders(path.parent)
        _write(path, {**files, MANIFEST: manifest})
    except NoSpace:
        raise
    except OSError as error:
        if error.errno in NO_SPACE:
            raise NoSpace(path, needed, disk.DISK.free(run_dir)) from error
        raise RunError(
            f"the checkpoint of step {step} cannot be written ({error.strerror})",
            where=str(run_dir / FOLDER),
            fix="the older checkpoints are as they were: mend the disk or its rights, then luthier train --resume",
        ) from error
    return path


def _write(path: Path, files: Mapping[str, bytes]) -> None:
    staging, aside = temporary_name(path), path.with_name(path.name + REPLACED)
    try:
        disk.DISK.make_folder(staging)
        for name, data in files.items():  # the manifest is the last
            write_new(staging / name, data)
        disk.DISK.sync_folder(staging)
        if path.exists():
            if damage(path):
                set_aside(path)
            else:  # the same step in another state: this name of the old one is looked at, too
                disk.DISK.replace(path, aside)
            disk.DISK.sync_folder(path.parent)
        disk.DISK.replace(staging, path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to tell; the next start removes what is left
            disk.DISK.remove_folder(staging)
        with suppress(OSError):
            if aside.exists() and not path.exists():
                disk.DISK.replace(aside, path)
        raise
    disk.DISK.sync_folder(path.parent)
    if aside.exists():
        with suppress(OSError):  # the new one is there; the next start removes the old one
            discard(aside)


def _make_room(run_dir: Path, needed: int, spare: Collection[int]) -> None:
    """Delete what is broken, then what is old, until `needed` bytes are free; the newest good one is never deleted."""
    if disk.DISK.free(run_dir) >= needed:
        return
    broken = [run_dir / FOLDER / name for name in disk.DISK.names(run_dir / FOLDER) if ".corrupt" in name]
    found = checkpoints(run_dir)
    good = next((folder for folder in found if not damage(folder)), None)
    older = found[found.index(good) + 1 :] if good is not None else []
    for folder in [*broken, *(folder for folder in reversed(older) if step_of(folder) not in spare)]:
        discard(folder)
        if disk.DISK.free(run_dir) >= needed:
            return
    raise NoSpace(run_dir, needed, disk.DISK.free(run_dir))


def discard(folder: Path) -> None:
    """Delete a checkpoint so that a half-deleted one is never seen under its name."""
    hidden = temporary_name(folder)
    disk.DISK.replace(folder, hidden)
    disk.DISK.sync_folder(folder.parent)
    remove(hidden)


def set_aside(folder: Path) -> Path:
    """Rename a broken checkpoint, so that nothing takes it for one, and keep it; returns where it is."""
    number, away = 1, folder.with_name(f"{folder.name}.corrupt")
    while away.exists():
        number += 1
        away = folder.with_name(f"{folder.name}.corrupt-{number}")
    disk.DISK.replace(folder, away)
    disk.DISK.sync_folder(folder.parent)
    return away


def newest_good(run_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, and a sentence for each newer one that is not: it is kept as `….corrupt`.

    What a process that died left half written is removed first.

    Returns:
        None where the run has never had a checkpoint.

    Raises:
        RunError: there are checkpoints and none is whole; there were some and all are gone; or the newest was written
            by another version of Luthier. A run never starts over silently.
    """
    notes: list[str] = []
    remove_leftovers(run_dir / FOLDER)
    for folder in checkpoints(run_dir):
        wrong = damage(folder)
        if not wrong:
            folder = _under_its_name(folder)
            if (was := _last_told(run_dir)) is not None and was > step_of(folder) and not notes:
                told = f"the checkpoint of step {was} is gone; the newest that is there is of step {step_of(folder)}"
                notes.append(told)
            return folder, notes
        kept = ""
        if "cannot be read" not in wrong:  # the disk may do so again
            with suppress(OSError):
                kept = f"; it is kept as {set_aside(folder).name}"
        notes.append(f"{folder.name} is passed over: {wrong}{kept}")
    broken = [name for name in disk.DISK.names(run_dir / FOLDER) if ".corrupt" in name]
    if notes or broken or _last_told(run_dir) is not None:
        raise RunError(
            "none of its checkpoints can be used" if notes or broken else "its checkpoints are gone",
            where=str(run_dir / FOLDER),
            fix="\n    ".join([*notes, "start a new run with another output_dir; what is here was not deleted"]),
        )
    return None, notes


def _under_its_name(folder: Path) -> Path:
    """End what a crash cut short while one state of a step took the place of another."""
    proper = folder.with_name(folder.name.removesuffix(REPLACED))
    if proper != folder:
        disk.DISK.replace(folder, proper)
        disk.DISK.sync_folder(folder.parent)
    elif (aside := folder.with_name(folder.name + REPLACED)).exists():
        discard(aside)
    return proper


def _last_told(run_dir: Path) -> int | None:
    """Step of the newest checkpoint by the run's events; -1 when later steps were given up since, None without any."""
    step = None
    if (run_dir / EVENTS_FILE).is_file():
        for event in read_events(run_dir):
            if event["event"] == "checkpoint":
                step = event["step"]
            elif event["event"] in ("rewind", "diverged"):
                step = -1
    return step


def prune(run_dir: Path, *, keep: int, protect: Collection[int] = ()) -> list[str]:
    """Delete all checkpoints but the newest `keep` whole ones and those of the steps in `protect`.

    One that is evidently broken does not count, and is left for whoever resumes.

    Returns:
        A sentence for each that could not be deleted.
    """
    notes, kept = [], 0
    for folder in checkpoints(run_dir):
        if damage(folder, contents=False):
            continue
        kept += 1
        if kept > keep and step_of(folder) not in protect:
            notes += _discarded(folder)
    return notes


def discard_after(run_dir: Path, step: int, *, protect: Collection[int] = ()) -> list[str]:
    """Delete the checkpoints of steps after `step`, which a rewind has given up, but those in `protect`.

    Returns:
        A sentence for each that could not be deleted.
    """
    given_up = [path for path in checkpoints(run_dir) if step_of(path) > step and step_of(path) not in protect]
    return [note for folder in given_up for note in _discarded(folder)]


def _discarded(folder: Path) -> list[str]:
    try:
        discard(folder)
    except OSError as error:
        return [f"{folder.name} could not be deleted ({error.strerror})"]
    return []
