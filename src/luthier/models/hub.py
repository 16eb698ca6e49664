"""A model from the Hugging Face hub, fetched because the user asked for it by name: `luthier model add ORG/NAME`.

The one other place that touches a network is `smollm2`. Files are fetched into a staging folder that an interrupted
download continues from, compared with the sizes and hashes that the hub publishes, and imported like any folder.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError, NetworkError
from luthier.core.files import hash_file
from luthier.core.paths import models_dir
from luthier.models.entries import StoreEntry, require_disk, require_free_name
from luthier.models.folder import INDEX, PICKLE_SUFFIXES, pickle_error
from luthier.models.import_folder import import_folder, is_copied

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def add_from_hub(repo: str, name: str, say: Callable[[str], None], *, endpoint: str | None = None) -> StoreEntry:
    """Fetch the model `repo` ("ORG/NAME") at its newest commit and import it as `name`.

    A file that was fetched whole is not fetched again when the command is repeated after an interruption.

    Args:
        endpoint: address of another hub; no login is sent to it.

    Raises:
        NetworkError: offline, no such repository, no access, or a download that stayed incomplete.
        ModelError: the repository has no safetensors, the disk is full, or the name is taken.
    """
    require_free_name(name)
    info = _ask(repo, endpoint)
    wanted = _wanted(repo, {file.rfilename: file for file in info.siblings or []})
    total = sum(file.size or 0 for file in wanted.values())
    staging = models_dir() / ".hub" / repo.replace("/", "--")
    here = sum(file.stat().st_size for file in staging.glob("*") if file.is_file())
    require_disk(max(0, total - here))
    license = str(getattr(info.card_data, "license", None) or "")
    say(f"fetching {repo} ({total / 1e9:,.2f} GB, license {license or 'not stated'})")
    _download(repo, info.sha, list(wanted), staging, endpoint)
    _compare(repo, wanted, staging)
    entry = import_folder(staging, name, say, origin=f"hub:{repo}@{info.sha}", license=license)
    shutil.rmtree(staging)
    return entry


def cached_folder(repo: str) -> Path | None:
    """The folder of `repo` in the Hugging Face cache of this machine, or None. Touches no network."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def _ask(repo: str, endpoint: str | None) -> Any:
    """What the hub says about the repository: commit, files with sizes and hashes, license."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    try:
        info = HfApi(endpoint=endpoint, token=_login(endpoint)).model_info(repo, files_metadata=True, timeout=30)
    except (HTTPError, OSError) as error:
        raise _explain(repo, error) from error
    assert info.sha is not None
    return info


def _wanted(repo: str, files: dict[str, Any]) -> dict[str, Any]:
    """The files to fetch: weights, configs and tokenizer at the top of the repository."""
    top = {name: file for name, file in files.items() if "/" not in name}
    weights = {name for name in top if name.endswith(".safetensors") and not name.startswith("adapter_")}
    # Mistral publishes the same weights a second time under other tensor names.
    weights = {name for name in weights if not name.startswith("consolidated")} or weights
    if not weights:
        pickles = sorted(name for name in top if Path(name).suffix in PICKLE_SUFFIXES)
        if pickles:
            raise pickle_error(repo, pickles)
        ggufs = sorted(name for name in files if name.endswith(".gguf"))
        fix = (
            f"fetch {ggufs[0]} yourself, then: luthier model add FILE.gguf"
            if ggufs
            else "choose a repository with weights"
        )
        raise ModelError("the repository has no *.safetensors", where=repo, fix=fix)
    if "config.json" not in top:
        raise ModelError(
            "the repository has no config.json", where=repo, fix="choose a model repository, not an adapter"
        )
    return {name: file for name, file in top.items() if name in weights or name == INDEX or is_copied(name)}


def _download(repo: str, commit: str, names: list[str], staging: Path, endpoint: str | None) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError, XetDownloadError

    try:
        snapshot_download(
            repo,
            revision=commit,
            local_dir=staging,
            allow_patterns=[name.replace("[", "[[]") for name in names],
            endpoint=endpoint,
            token=_login(endpoint),
        )
    except (HTTPError, OSError, XetDownloadError) as error:
        raise _explain(repo, error) from error


def _compare(repo: str, wanted: dict[str, Any], staging: Path) -> None:
    """Sizes of all files, and sha256 of the large ones, against what the hub published."""
    for name, file in wanted.items():
        path = staging / name
        size = path.stat().st_size if path.is_file() else -1
        whole = size == file.size if file.size is not None else size >= 0
        if whole and file.lfs is not None:
            whole = hash_file(path) == file.lfs.sha256
        if not whole:
            path.unlink(missing_ok=True)
            fix = f"repeat: luthier model add {repo}  (what arrived whole is kept)"
            raise NetworkError(f"{name} did not arrive whole", where=repo, fix=fix)


def _explain(repo: str, error: Exception) -> NetworkError:
    """The hub client's error in our words."""
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled

    response = getattr(error, "response", None)
    status = response.status_code if response is not None else None
    if isinstance(error, GatedRepoError) or status == 403:
        what = "this model asks you to accept its license first, or your login may not read it"
        fix = f"accept it at https://huggingface.co/{repo}, log in with: hf auth login, then repeat"
    elif status in (401, 404):
        what = "the hub knows no such model, or it is private"
        fix = "check the spelling ORG/NAME; for a private model log in with: hf auth login"
    elif status is not None:
        what, fix = f"the hub answered with the error {status}", "try again later"
    elif isinstance(error, OfflineModeIsEnabled):
        what, fix = "the hub client is set to offline (HF_HUB_OFFLINE)", "unset it for this command"
    else:
        what = f"the hub could not be reached or the download broke off ({_first_line(error)})"
        fix = f"check the network, then repeat: luthier model add {repo}  (what arrived whole is kept)"
    return NetworkError(what, where=repo, fix=fix)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _login(endpoint: str | None) -> bool | None:
    """The user's login goes to the hub and to no other address."""
    return None if endpoint is None else False
