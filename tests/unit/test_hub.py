"""`luthier model add ORG/NAME` against a small hub on the loopback interface."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from helpers_store import write_folder
from luthier.core.errors import ModelError, NetworkError
from luthier.core.paths import models_dir
from luthier.models import entries
from luthier.models.hub import add_from_hub
from luthier.models.store import add_model, list_models, resolve_model, verify_model

COMMIT = "c0ffee" + "0" * 34


class Hub(ThreadingHTTPServer):
    """Speaks the routes that huggingface_hub uses for one model, and remembers what was asked."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.asked: list[str] = []
        self.authorized: list[str] = []
        self.cut: dict[str, int] = {}  # file -> how many more responses break off in the middle
        self.status = 200

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def entry(self, name: str) -> dict[str, object]:
        data = self.files[name]
        entry: dict[str, object] = {"size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        if name.endswith((".safetensors", ".bin")):
            digest = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": digest, "sha256": digest, "size": len(data), "pointerSize": 130}
        return entry


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server, unquote(self.path.partition("?")[0])
        ranged = self.headers.get("Range", "")
        hub.asked.append(f"{self.command} {path} {ranged}".strip())
        if "Authorization" in self.headers:
            hub.authorized.append(self.path)
        api, resolve = "/api/models/Org/Tiny", f"/Org/Tiny/resolve/{COMMIT}/"
        if hub.status != 200:
            code = {401: "RepoNotFound", 404: "RepoNotFound", 403: "GatedRepo"}.get(hub.status, "")
            self.answer(b"{}", hub.status, {"X-Error-Code": code} if code else {})
        elif path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            siblings = [{"rfilename": n, **hub.entry(n), "blobId": hub.entry(n)["oid"]} for n in hub.files]
            info = {"id": "Org/Tiny", "sha": COMMIT, "siblings": siblings, "cardData": {"license": "mit"}, "tags": []}
            self.answer(json.dumps(info).encode())
        elif path.startswith(f"{api}/tree/{COMMIT}"):
            self.answer(json.dumps([{"type": "file", "path": n, **hub.entry(n)} for n in hub.files]).encode())
        elif path.startswith(resolve) and path.removeprefix(resolve) in hub.files:
            self.send_file(path.removeprefix(resolve), ranged)
        else:
            self.answer(b"{}", 404, {"X-Error-Code": "EntryNotFound"})

    def send_file(self, name: str, ranged: str) -> None:
        data = self.server.files[name]
        entry = self.server.entry(name)
        etag = entry["lfs"]["sha256"] if "lfs" in entry else entry["oid"]
        start = int(ranged.removeprefix("bytes=").partition("-")[0]) if ranged else 0
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if ranged:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body, status = data[start:], 206 if ranged else 200
        if self.command == "GET" and self.server.cut.get(name, 0) > 0:
            self.server.cut[name] -= 1
            self.answer(body[: len(body) // 2], status, headers, announced=len(body))
            self.close_connection = True
        else:
            self.answer(body, status, headers)

    def answer(
        self, body: bytes, status: int = 200, headers: dict[str, str] | None = None, announced: int = -1
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(announced if announced >= 0 else len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    # A fault in our code must not reach the real hub, and waits between retries are not what is tested.
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = write_folder(tmp_path / "Tiny", shards=2)
    server = Hub({file.name: file.read_bytes() for file in folder.iterdir()})
    server.files["evil.py"] = b"raise SystemExit"
    server.files["consolidated.safetensors"] = b"x" * 10
    server.files["original/params.json"] = b"{}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def add(hub: Hub, said: list[str] | None = None) -> entries.StoreEntry:
    return add_from_hub("Org/Tiny", "Tiny", (said if said is not None else []).append, endpoint=hub.address)


def test_fresh(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    said: list[str] = []
    entry = add(hub, said)
    assert (entry.source, entry.license) == (f"hub:Org/Tiny@{COMMIT}", "mit")
    assert verify_model("Tiny") == [] and list_models() == [entry]
    names = {path.name for path in entry.path.iterdir()}
    assert names == {path.name for path in (tmp_path / "Tiny").iterdir()} - {"README.md"} | {"manifest.json"}
    assert resolve_model("Org/Tiny") == resolve_model("Tiny") == entry.path
    assert list((models_dir() / ".hub").iterdir()) == []
    # Only the model's own pages are asked for, nothing unwanted is fetched, and no login leaves for another address.
    assert all("/Org/Tiny" in line for line in hub.asked)
    assert not any(word in line for line in hub.asked for word in ("evil", "consolidated", "original", "README"))
    assert hub.authorized == []
    assert any("license mit" in line for line in said)
    asked = len(hub.asked)
    assert add_model("Org/Tiny", say=said.append) == entry  # already there: no network
    assert "already in the store" in said[-1] and len(hub.asked) == asked


def test_a_connection_that_breaks_is_resumed_where_it_stopped(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    # The client keeps whole chunks of 10 MB; a tiny file needs tiny ones.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 16)
    name = "model-00002-of-00002.safetensors"
    hub.cut[name] = 2
    add(hub)
    gets = [line for line in hub.asked if line.startswith("GET") and name in line]
    assert len(gets) == 3 and all("bytes=" in line for line in gets[1:]), gets
    assert verify_model("Tiny") == []


def test_an_interrupted_command_goes_on_with_what_arrived(hub: Hub) -> None:
    hub.cut["model-00002-of-00002.safetensors"] = 1000
    with pytest.raises(NetworkError, match="what arrived whole is kept"):
        add(hub)
    assert list_models() == []
    assert (models_dir() / ".hub" / "Org--Tiny" / "model-00001-of-00002.safetensors").is_file()
    hub.cut.clear()
    hub.asked.clear()
    add(hub)
    fetched = [line for line in hub.asked if line.startswith("GET") and "safetensors" in line and "index" not in line]
    assert len(fetched) == 1 and "00002-of-00002" in fetched[0]
    assert verify_model("Tiny") == []


def test_a_file_that_differs_from_its_published_hash_is_refused(hub: Hub) -> None:
    name = "model-00001-of-00002.safetensors"
    real = Hub.entry
    published = real(hub, name)
    hub.files[name] = bytes(reversed(hub.files[name]))
    hub.entry = lambda asked: published if asked == name else real(hub, asked)  # type: ignore[method-assign]
    with pytest.raises(NetworkError, match=f"{name} did not arrive whole"):
        add(hub)
    assert list_models() == []
    assert not (models_dir() / ".hub" / "Org--Tiny" / name).exists()


def test_pickles_are_refused_before_anything_is_fetched(hub: Hub) -> None:
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"x", "tokenizer.json": b"{}"}
    with pytest.raises(ModelError, match=r"pickles \(pytorch_model\.bin\)"):
        add(hub)
    assert not any("resolve" in line for line in hub.asked)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.gguf": b"x"}, r"fetch a\.gguf yourself"),
        ({"adapter_model.safetensors": b"x"}, r"no \*\.safetensors"),
        ({"model.safetensors": b"x"}, r"no config\.json"),
    ],
)
def test_repositories_without_a_model(hub: Hub, files: dict[str, bytes], words: str) -> None:
    hub.files = files
    with pytest.raises(ModelError, match=words):
        add(hub)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, "no such model"),
        (401, "no such model"),
        (403, "accept it at https://huggingface.co/Org/Tiny"),
        (501, "501"),
    ],
)
def test_refusals_of_the_hub(hub: Hub, status: int, words: str) -> None:
    hub.status = status
    with pytest.raises(NetworkError, match=words) as error:
        add(hub)
    assert error.value.where == "Org/Tiny" and error.value.fix
    assert not models_dir().exists()


def test_offline(hub: Hub) -> None:
    with pytest.raises(NetworkError, match="could not be reached"):
        add_from_hub("Org/Tiny", "Tiny", [].append, endpoint="http://127.0.0.1:9")


def test_full_disk(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "free_disk", lambda path: 500)
    with pytest.raises(ModelError, match="GB are free"):
        add(hub)
    assert not any("resolve" in line for line in hub.asked)
