"""No connection is made and no secret is written: whole commands in a process where a socket is an error."""

import shutil
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from helpers_cli import SRC
from helpers_runs import make_recipe, rows_of, talk, write_rows
from luthier.core.errors import LuthierError
from luthier.models.decoder import Decoder
from luthier.recipe import Recipe, dump_recipe
from luthier.stages.run import train

# `sitecustomize` is imported by every Python that the command starts, workers included.
SPY = """
import sys

def spy(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg",
                 "socket.bind"):
        address = str(arguments[1] if event.startswith("socket.connect") else arguments)
        with open({log!r}, "a") as log:
            print(event, address, file=log)
        raise OSError("there is no network here")

sys.addaudithook(spy)
"""
COMMANDS = """
import sys
from luthier import cli

for words in {commands!r}:
    sys.argv = ["luthier", *words]
    try:
        cli.main()
    except SystemExit as left:
        assert not left.code, (words, left.code)
"""
ADDRESS, KEY, CREDENTIAL = "mira.kessler@example.org", "sk-proj-9fQ2xW7LkZ", "hf_wBqJcRtYpLmNzXvKd"


def private_rows() -> list[dict[str, Any]]:
    """Conversations of which many hold an address and a key."""
    return [*rows_of(), *(talk(f"Write {i} to {ADDRESS}.", f"The key is {KEY}.", group=str(i)) for i in range(20))]


def command(folder: Path, program: str, *, isolated: bool = False) -> subprocess.CompletedProcess[str]:
    """A Python program in `folder`, with the spy, a home of its own and a credential in its environment."""
    (folder / "spy").mkdir(exist_ok=True)
    (folder / "spy" / "sitecustomize.py").write_text(SPY.format(log=str(folder / "sockets.txt")))
    environment = {
        "HOME": str(folder / "home"), "PATH": "/usr/bin:/bin", "PYTHONPATH": f"{folder / 'spy'}:{SRC}",
        "HF_TOKEN": CREDENTIAL, "OMP_NUM_THREADS": "1", "COLUMNS": "200",
    }  # fmt: skip
    start = ["unshare", "--map-root-user", "--net"] if isolated else []
    return subprocess.run(
        [*start, sys.executable, "-c", program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )


def write_recipe(folder: Path, model: Path, data: Path) -> None:
    values = {"val_set_size": 0.2, "lora_r": 2, "batch_tokens": 256, "max_steps": 2, "num_samples": 0, "dtype": "fp32",
              "device": "cpu", "learning_rate": 1e-2, "max_forgetting": None, "replay_share": 0.0}  # fmt: skip
    recipe = Recipe(base_model=str(model), datasets=[str(data)], output_dir="run", **values)
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))


def can_isolate() -> bool:
    """Whether this machine lets us have a network namespace without any device."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--map-root-user", "--net", "true"], capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory, chat_model: Path) -> tuple[Path, str]:
    """The folder after a model was added, trained, asked and shown, and all that was printed."""
    folder = tmp_path_factory.mktemp("offline")
    write_recipe(folder, Path("tiny"), write_rows(folder / "rows.jsonl", private_rows()))
    commands = [
        ["model", "add", str(chat_model), "--name", "tiny"],
        ["train", "recipe.yaml"],
        ["chat", "run", "--prompt", "What is a lute?", "--max-new-tokens", "4"],
        ["runs", "show", "run"],
    ]
    done = command(folder, COMMANDS.format(commands=commands), isolated=can_isolate())
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout + done.stderr


def test_f46_a_whole_run_needs_no_network(worked: tuple[Path, str]) -> None:
    folder, _ = worked
    assert (folder / "run" / "adapter" / "adapter_model.safetensors").is_file()
    assert not (folder / "sockets.txt").exists(), (folder / "sockets.txt").read_text()


def test_f46_the_spy_sees_a_connection(tmp_path: Path) -> None:
    program = "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9/')"
    assert command(tmp_path, program).returncode != 0
    assert "socket." in (tmp_path / "sockets.txt").read_text()


def files_with(folder: Path, secret: str) -> list[str]:
    """Files of a run that hold `secret` as it is."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 8
    return [str(path.relative_to(folder)) for path in files if secret.encode() in path.read_bytes()]


def test_f47_a_run_writes_no_text_of_its_rows_and_no_credential(worked: tuple[Path, str]) -> None:
    folder, printed = worked
    assert "lyre" not in printed
    for secret in (ADDRESS, KEY, CREDENTIAL):
        assert secret not in printed
        assert files_with(folder / "run", secret) == []


def refusal(model: Path, data: Path, folder: Path) -> str:
    """What `train` would print with these rows, traceback included."""
    with pytest.raises((LuthierError, ZeroDivisionError)) as caught:
        train(make_recipe(model, data, folder / "run"))
    return "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("kind", ["broken line", "unknown role"])
def test_f47_an_error_does_not_quote_the_row(kind: str, home: Path, tmp_path: Path, chat_model: Path) -> None:
    turns = [{"role": "user", "content": KEY}, {"role": "robot", "content": ADDRESS}]
    row = {"messages": turns} if kind == "unknown role" else '{"messages": [{"role": "user", "content": "' + ADDRESS
    data = write_rows(tmp_path / "rows.jsonl", [*private_rows(), row])
    text = refusal(chat_model, data, tmp_path)
    assert "rows.jsonl:61" in text
    assert ADDRESS not in text and KEY not in text


def test_f47_a_traceback_shows_no_row(
    home: Path, tmp_path: Path, chat_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **keywords: Any) -> None:
        raise ZeroDivisionError("a mistake of our own")

    monkeypatch.setattr(Decoder, "logprobs", broken)
    text = refusal(chat_model, write_rows(tmp_path / "rows.jsonl", private_rows()), tmp_path)
    assert "a mistake of our own" in text
    assert ADDRESS not in text and KEY not in text
